"""The gRPC form: raw and typed contents say the same, and nothing malformed raises anything but a refusal."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, Array, DType, bytes_from_array
from enginehouse.errors import InvalidInput
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest
from service.client_memory.shared_memory import SharedMemory
from service.codecs import proto_codec
from service.codecs.client_tensors import RegionSlice
from service.codecs.proto_codec import ReplyForm
from service.request import InferRequest, InferResponse, Parameter, Timings, WireTensor
from tests.service.codecs.test_json_codec import typed_arrays

TYPED = [dtype for dtype in DTYPES.values() if dtype.contents_field]
Pair = tuple[DType, Array]
NOWHERE = SharedMemory(is_allowed=False)
TIMINGS = Timings(0, 0, 0, 0, 0, 1)


def decode_request(message: ModelInferRequest) -> InferRequest:
    return proto_codec.decode_request(message, NOWHERE)[0]


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
    answer = proto_codec.encode_response(InferResponse("m", "3", "7", outputs, TIMINGS), ReplyForm(), NOWHERE)
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
        (
            with_raw(one_input(int_contents=[1, 2]), b"12"),
            "contents field must not be specified .* for 'x' for model 'm'",
        ),
    ],
)
def test_malformed_is_refused_with_its_reason(message: ModelInferRequest, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        decode_request(message)


def test_classes_of_an_output_are_asked_for() -> None:
    message = one_input(int_contents=[1, 2])
    for name, classes in (("y", 3), ("z", 0)):
        message.outputs.add(name=name).parameters["classification"].int64_param = classes
    request = decode_request(message)
    assert request.classifications == {"y": 3}
    assert request.outputs == ("y", "z")


def test_classes_do_not_go_to_shared_memory() -> None:
    message = one_input(int_contents=[1, 2])
    output = message.outputs.add(name="y")
    output.parameters["classification"].int64_param = 2
    place(output.parameters, "r", 2)
    with pytest.raises(InvalidInput, match="cannot have both"):
        proto_codec.decode_request(message, FakeMemory())


class FakeMemory:
    """A region of eight bytes by the name of `r`."""

    def __init__(self) -> None:
        self.data = bytearray(b"abcdefgh")

    def check(self, region: str, offset: int, byte_size: int) -> None:
        if region != "r" or offset + byte_size > len(self.data):
            raise InvalidInput(f"not there: {region}")

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:
        self.check(region, offset, byte_size)
        return memoryview(bytes(self.data))[offset : offset + byte_size]

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:
        self.check(region, offset, byte_size)
        self.data[offset : offset + len(data)] = data


def place(parameters: Any, region: Parameter, byte_size: Parameter | None, offset: Parameter | None = None) -> None:
    for key, value in (("region", region), ("byte_size", byte_size), ("offset", offset)):
        if value is not None:
            proto_codec.set_parameter(parameters, f"shared_memory_{key}", value)


def test_inputs_in_the_clients_memory_are_read_and_the_raw_ones_are_for_the_others() -> None:
    message = ModelInferRequest(model_name="m", raw_input_contents=[b"12"])
    place(message.inputs.add(name="x", datatype="INT8", shape=(2,)).parameters, "r", 2, 3)
    message.inputs.add(name="y", datatype="INT8", shape=(2,))
    request, _ = proto_codec.decode_request(message, FakeMemory())
    assert [bytes(wire.data) for wire in request.inputs] == [b"de", b"12"]
    del message.raw_input_contents[:]
    message.inputs[1].contents.int_contents.extend([1, 2])
    request, _ = proto_codec.decode_request(message, FakeMemory())
    assert [bytes(wire.data) for wire in request.inputs] == [b"de", b"\x01\x02"]


def test_outputs_go_to_the_clients_memory_and_leave_an_empty_place() -> None:
    message = ModelInferRequest(model_name="m")
    place(message.outputs.add(name="a").parameters, "r", 4, 2)
    message.outputs.add(name="b")
    memory = FakeMemory()
    _, form = proto_codec.decode_request(message, memory)
    assert form == ReplyForm({"a": RegionSlice("r", 2, 4)})
    outputs = tuple(WireTensor(name, DTYPES["INT8"], (3,), b"123") for name in "ab")
    answer = proto_codec.encode_response(InferResponse("m", "3", "", outputs, TIMINGS), form, memory)
    assert list(answer.raw_output_contents) == [b"", b"123"]
    assert memory.data == b"ab123fgh"
    told = {key: value.int64_param for key, value in answer.outputs[0].parameters.items()}
    assert told == {"shared_memory_region": 0, "shared_memory_offset": 2, "shared_memory_byte_size": 3}
    assert not answer.outputs[1].parameters


def test_an_output_that_does_not_fit_is_refused_and_nothing_is_written() -> None:
    form, memory = ReplyForm({"a": RegionSlice("r", 0, 2)}), FakeMemory()
    outputs = (WireTensor("a", DTYPES["INT8"], (3,), b"123"),)
    with pytest.raises(InvalidInput, match=r"output 'a' \(2 bytes\) should be at least 3 bytes"):
        proto_codec.encode_response(InferResponse("m", "3", "", outputs, TIMINGS), form, memory)
    assert memory.data == b"abcdefgh"


@pytest.mark.parametrize(
    ("region", "byte_size", "offset", "reason"),
    [
        ("r", None, None, "without 'shared_memory_byte_size'"),
        ("r", -1, None, "'shared_memory_byte_size' of input 'x' is -1"),
        ("r", "2", None, "'shared_memory_byte_size' of input 'x' is '2'"),
        ("r", True, None, "'shared_memory_byte_size' of input 'x' is True"),
        ("r", 2, -1, "'shared_memory_offset' of input 'x' is -1"),
        ("r", 2, 2**63, "'shared_memory_offset' of input 'x' is"),
        ("r", 3, 0, "has 3 bytes in shared memory; INT8"),
        ("r", 2, 7, "not there"),
        ("q", 2, 0, "not there: q"),
        ("", 2, 0, "the name of a registered region"),
        (7, 2, 0, "the name of a registered region"),
    ],
)
def test_what_makes_no_sense_of_a_region_is_refused(
    region: Parameter, byte_size: Parameter | None, offset: Parameter | None, reason: str
) -> None:
    message = ModelInferRequest(model_name="m")
    place(message.inputs.add(name="x", datatype="INT8", shape=(2,)).parameters, region, byte_size, offset)
    with pytest.raises(InvalidInput, match=reason):
        proto_codec.decode_request(message, FakeMemory())


def test_an_output_region_is_checked_before_anything_is_computed() -> None:
    message = one_input(int_contents=[1, 2])
    place(message.outputs.add(name="a").parameters, "q", 4)
    with pytest.raises(InvalidInput, match="not there: q"):
        proto_codec.decode_request(message, FakeMemory())


def test_an_input_is_in_one_place_only() -> None:
    message = one_input(int_contents=[1, 2])
    place(message.inputs[0].parameters, "r", 2)
    with pytest.raises(InvalidInput, match="it is in shared memory region 'r' already"):
        proto_codec.decode_request(message, FakeMemory())
    with pytest.raises(InvalidInput, match="raw_input_contents has 1 entries for 0 inputs"):
        proto_codec.decode_request(with_raw(message, b"12"), FakeMemory())


def test_reserved_parameters_are_refused_except_the_one_for_streams() -> None:
    message = one_input(int_contents=[1, 2])
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    request, form = proto_codec.decode_request(message, NOWHERE)
    assert form.wants_empty_final
    assert not request.parameters
    output = message.outputs.add(name="y")
    owners: dict[str, Any] = {"the request": message, "input 'x'": message.inputs[0], "output 'y'": output}
    for whose, owner in owners.items():
        owner.parameters["triton_other"].bool_param = True
        with pytest.raises(InvalidInput, match=f"'triton_other' of {whose} is one"):
            decode_request(message)
        del owner.parameters["triton_other"]
    message.parameters["triton_enable_empty_final_response"].string_param = "yes"
    with pytest.raises(InvalidInput, match="a boolean is expected"):
        decode_request(message)


def test_parameters_of_an_answer_keep_their_types() -> None:
    given: dict[str, Parameter] = {"a": True, "b": "text", "c": 0.5, "d": -(2**63), "e": 2**64 - 1, "f": 2**70}
    answer = proto_codec.encode_response(InferResponse("m", "1", "", (), TIMINGS, given), ReplyForm(), NOWHERE)
    kinds = {key: value.WhichOneof("parameter_choice") for key, value in answer.parameters.items()}
    assert kinds == {
        "a": "bool_param",
        "b": "string_param",
        "c": "double_param",
        "d": "int64_param",
        "e": "uint64_param",
        "f": "string_param",
    }
    assert answer.parameters["d"].int64_param == -(2**63)
    assert answer.parameters["f"].string_param == str(2**70)


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
    except InvalidInput:
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
