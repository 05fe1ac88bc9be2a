"""A body that is nothing but one tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.codecs.raw_request import decode_raw_request


def config(dims: str, max_batch_size: int = 0, data_type: str = "FP32", inputs: int = 1) -> ModelConfig:
    entry = f'{{ name: "x%d" data_type: TYPE_{data_type} dims: {dims} }}'
    text = f"max_batch_size: {max_batch_size} input [{', '.join(entry % at for at in range(inputs))}]"
    return config_from_text(text, "m", "test")


def test_the_configuration_says_what_the_tensor_is() -> None:
    request = decode_raw_request(bytes(24), config("[2, 3]"), "m", "7")
    (wire,) = request.inputs
    assert (wire.name, wire.dtype.name, wire.shape, wire.data) == ("x0", "FP32", (2, 3), bytes(24))
    assert (request.model_name, request.model_version, request.outputs) == ("m", "7", ())


def test_a_model_that_batches_is_given_one_row() -> None:
    (wire,) = decode_raw_request(bytes(24), config("[2, 3]", max_batch_size=8), "m", "").inputs
    assert wire.shape == (1, 2, 3)


@given(st.integers(0, 50))
def test_one_open_dimension_is_what_the_bytes_fill(count: int) -> None:
    (wire,) = decode_raw_request(bytes(8 * count), config("[-1, 2]", max_batch_size=8), "m", "").inputs
    assert wire.shape == (1, count, 2)


def test_text_is_given_its_length() -> None:
    (wire,) = decode_raw_request("grüße".encode(), config("[1]", data_type="STRING"), "m", "").inputs
    assert (wire.shape, bytes(wire.data)) == ((1,), b"\x07\x00\x00\x00" + "grüße".encode())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (config("[-1, -1]"), "can not be deduced because there are more than one variable-sized dimension"),
        (config("[2]", inputs=3), "must only have 1 input (found 1) to be deduced but got 3 inputs in 'm'"),
        (config("[2]", inputs=0), "to be deduced but got 0 inputs in 'm'"),
        (config("[2]", data_type="STRING"), "For BYTE datatype raw input, the model must have input shape [1]"),
        (config("[-1]", data_type="STRING"), "For BYTE datatype raw input, the model must have input shape [1]"),
    ],
)
def test_what_the_configuration_leaves_open_is_refused(model: ModelConfig, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        decode_raw_request(bytes(8), model, "m", "")
    assert message in str(refusal.value)
