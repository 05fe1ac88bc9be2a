"""Flat JSON in, flat JSON out."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, bytes_from_array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from service.codecs.generate_codec import decode_generate, encode_generate
from service.request import InferResponse, Timings, WireTensor

TIMINGS = Timings(0, 0, 0, 0, 0, 1)


def spec(*shape: int, dtype: str = "INT32", name: str = "x") -> TensorSpec:
    return TensorSpec(name, DTYPES[dtype], shape)


def decode(value: Any, *specs: TensorSpec) -> Any:
    return decode_generate(json.dumps(value).encode(), specs, "m", "3")


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((1,), 1, (1,)),
        ((-1, 1), 1, (1, 1)),
        ((-1, 3), 3, (1, 3)),
        ((-1, 3), 6, (2, 3)),
        ((-1, -1), 4, (1, 4)),
        ((-1, -1, 2), 6, (1, 3, 2)),
        ((-1, 2, -1), 6, (1, 2, 3)),
        ((-1,), 0, (0,)),
        ((2, 2), 4, (2, 2)),
        ((), 1, ()),
    ],
)
def test_elements_fill_the_innermost_open_dimension(
    shape: tuple[int, ...], count: int, expected: tuple[int, ...]
) -> None:
    (wire,) = decode({"x": list(range(count))}, spec(*shape)).inputs
    assert wire.shape == expected
    assert np.frombuffer(wire.data, np.int32).tolist() == list(range(count))


@pytest.mark.parametrize(("shape", "count"), [((3,), 2), ((3,), 6), ((-1, 3), 4), ((), 2), ((2, -1), 3), ((2,), 0)])
def test_elements_that_fit_no_shape_are_refused(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(InvalidInput, match="The schema can not convert input 'x' to tensor with proper shape"):
        decode({"x": list(range(count))}, spec(*shape))


@given(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=4), st.integers(0, 40))
def test_any_count_fills_a_shape_or_is_refused(shape: list[int], count: int) -> None:
    try:
        (wire,) = decode({"x": list(range(count))}, spec(*shape)).inputs
    except InvalidInput:
        return
    assert math.prod(wire.shape) == count
    assert all(want in (-1, have) for have, want in zip(wire.shape, shape, strict=True))


def test_a_model_may_have_an_input_called_id() -> None:
    request = decode({"id": 7}, spec(1, name="id"))
    assert request.id == ""
    assert request.inputs[0].name == "id"


def test_a_model_with_an_input_called_parameters_is_for_infer() -> None:
    with pytest.raises(InvalidInput, match="Keyword 'parameters' for nested schema also given as input"):
        decode({"parameters": {}}, spec(1, name="parameters"))


def test_nested_lists_are_taken_flat() -> None:
    (wire,) = decode({"x": [[1, 2], [3, 4]]}, spec(-1, 2)).inputs
    assert wire.shape == (2, 2)


def response(array: Any, dtype: str, name: str = "y") -> InferResponse:
    wire = WireTensor(name, DTYPES[dtype], array.shape, bytes_from_array(array, DTYPES[dtype]))
    return InferResponse("m", "3", "7", (wire,), TIMINGS, {"tokens": 4})


def test_one_element_has_no_list_and_several_have_a_flat_one() -> None:
    one = json.loads(encode_generate(response(np.array([[1.5]], np.float32), "FP32")))
    assert one == {"model_name": "m", "model_version": "3", "id": "7", "tokens": 4, "y": 1.5}
    several = json.loads(encode_generate(response(np.array([["a", "b"]], dtype=object), "BYTES")))
    assert several["y"] == ["a", "b"]
    assert json.loads(encode_generate(response(np.array([], np.int64), "INT64")))["y"] == []
    assert json.loads(encode_generate(response(np.array([True]), "BOOL")))["y"] is True


def test_an_output_does_not_hide_who_answered() -> None:
    answer = json.loads(encode_generate(response(np.array([1]), "INT64", name="model_name")))
    assert answer["model_name"] == "m"


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidInput, match="sending FP16 data via JSON is not supported"):
        encode_generate(response(np.array([1], np.float16), "FP16"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["x", "t", "id", "parameters", "triton_x", "more"]), JSON) | JSON)
def test_any_object_is_a_request_or_refused(value: Any) -> None:
    try:
        request = decode(value, spec(-1, 2), spec(1, dtype="BYTES", name="t"))
    except InvalidInput:
        return
    assert {wire.name for wire in request.inputs} <= {"x", "t"}
