"""The gRPC form: raw and typed contents say the same, and nothing malformed raises anything but a refusal."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, Array, DType, bytes_from_array
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest
from service.proto_codec import decode_request, encode_response
from service.request import InferResponse, Timings, WireTensor
from tests.service.test_json_codec import typed_arrays

TYPED = [dtype for dtype in DTYPES.values() if dtype.contents_field]
Pair = tuple[DType, Array]


def make_message(*pairs: Pair, is_raw: bool) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m", model_version="2", id="7")
    for at, (dtype, array) in enumerate(pairs):
        tensor = message.inputs.add(name=str(at), datatype=dtype.name, shape=array.shape)
        if is_raw:
            message.raw_input_contents.append(bytes_from_array(array, dtype))
        else:
            items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
            getattr(tensor.contents, dtype.contents_field).extend(items)
    return message


@given(st.lists(typed_arrays(list(DTYPES.values())), max_size=3))
def test_raw_contents_are_the_wire_bytes(pairs: list[Pair]) -> None:
    request = decode_request(make_message(*pairs, is_raw=True))
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "7")
    for wire, (dtype, array) in zip(request.inputs, pairs, strict=True):
        assert (wire.dtype, wire.shape, wire.data) == (dtype, array.shape, bytes_from_array(array, dtype))


@given(st.lists(typed_arrays(TYPED), max_size=3))
def test_typed_contents_become_the_same_bytes(pairs: list[Pair]) -> None:
    request = decode_request(make_message(*pairs, is_raw=False))
    for wire, (dtype, array) in zip(request.inputs, pairs, strict=True):
        assert wire.data == bytes_from_array(array, dtype)


@given(st.lists(typed_arrays(list(DTYPES.values())), max_size=3))
def test_every_output_is_answered_raw_in_its_place(pairs: list[Pair]) -> None:
    outputs = tuple(
        WireTensor(str(at), dtype, array.shape, memoryview(bytes_from_array(array, dtype)))
        for at, (dtype, array) in enumerate(pairs)
    )
    answer = encode_response(InferResponse("m", "3", "7", outputs, Timings(0, 0, 0, 0, 0, 1)))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    assert [(entry.name, entry.datatype, tuple(entry.shape)) for entry in answer.outputs] == [
        (wire.name, wire.dtype.name, wire.shape) for wire in outputs
    ]
    assert list(answer.raw_output_contents) == [bytes(wire.data) for wire in outputs]


def test_parameters_and_wanted_outputs_are_read() -> None:
    message = ModelInferRequest(model_name="m")
    message.parameters["timeout"].int64_param = 5
    message.parameters["text"].string_param = "t"
    message.parameters["flag"].bool_param = False
    message.parameters["number"].double_param = 0.5
    message.parameters["nothing"].SetInParent()
    message.outputs.add(name="b")
    message.outputs.add(name="a")
    request = decode_request(message)
    assert request.parameters == {"timeout": 5, "text": "t", "flag": False, "number": 0.5}
    assert request.outputs == ("b", "a")


def one_input(datatype: str = "INT8", shape: tuple[int, ...] = (2,), **contents: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, items in contents.items():
        getattr(tensor.contents, name).extend(items)
    return message


def with_raw(message: ModelInferRequest, *raw: bytes) -> ModelInferRequest:
    message.raw_input_contents.extend(raw)
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (one_input("FLOAT"), "unknown datatype 'FLOAT'"),
        (one_input(""), "unknown datatype ''"),
        (one_input(shape=(-1,)), r"'shape' of input 'x' is \[-1\]; sizes from 0"),
        (one_input(int_contents=[1]), r"unexpected number of elements 1 for input 'x'; \[2\] needs 2"),
        (one_input(shape=(2**63 - 1, 2**63 - 1)), "unexpected number of elements 0"),
        (one_input(int_contents=[1, 128]), "a number that INT8 cannot"),
        (one_input("UINT8", uint_contents=[1, 256]), "a number that UINT8 cannot"),
        (one_input(fp32_contents=[1, 2]), r"is INT8 and must be given in int_contents; found \['fp32_contents'\]"),
        (one_input(int_contents=[1, 2], bool_contents=[True]), "must be given in int_contents"),
        (one_input("FP16"), "FP16 has no typed contents; send input 'x' in raw_input_contents"),
        (with_raw(one_input(), b"12", b"3"), "raw_input_contents has 2 entries for 1 inputs"),
        (with_raw(one_input(int_contents=[1, 2]), b"12"), "binary data was already supplied"),
    ],
)
def test_malformed_is_refused_with_its_reason(message: ModelInferRequest, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        decode_request(message)


@pytest.mark.parametrize("feature", ["classification", "shared_memory_region"])
@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_a_feature_that_is_not_there_is_named(feature: str, place: str) -> None:
    message = one_input(int_contents=[1, 2])
    message.outputs.add(name="y")
    getattr(message, place)[0].parameters[feature].string_param = "1"
    with pytest.raises(NotSupported, match=f"asks for '{feature}'"):
        decode_request(message)


NUMBERS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=3),
}


@st.composite
def messages(draw: st.DrawFn) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m")
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.lists(st.integers(-1, 3) | st.sampled_from([2**63 - 1, -(2**63)]), max_size=3))
        tensor = message.inputs.add(
            name=draw(st.text(max_size=2)), datatype=draw(st.sampled_from([*DTYPES, ""])), shape=shape
        )
        for field in draw(st.sets(st.sampled_from(sorted(NUMBERS)), max_size=2)):
            getattr(tensor.contents, field).extend(draw(st.lists(NUMBERS[field], max_size=4)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=8), max_size=2)))
    return message


def decode_or_refuse(message: ModelInferRequest) -> None:
    try:
        request = decode_request(message)
    except (InvalidInput, NotSupported):
        return
    for wire in request.inputs:
        assert isinstance(wire.data, bytes)
        if wire.dtype.size_bytes and not message.raw_input_contents:
            assert len(wire.data) == wire.dtype.size_bytes * int(np.prod(wire.shape, dtype=object))


@settings(max_examples=400)
@given(messages())
def test_any_message_is_a_request_or_refused(message: ModelInferRequest) -> None:
    decode_or_refuse(message)


@given(st.binary(max_size=80))
def test_any_bytes_that_parse_are_a_request_or_refused(data: bytes) -> None:
    try:
        message = ModelInferRequest.FromString(data)
    except DecodeError:
        return
    decode_or_refuse(message)
