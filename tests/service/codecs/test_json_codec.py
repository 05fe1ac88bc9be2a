"""The REST form: what goes in comes out, and nothing malformed raises anything but a refusal."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enginehouse.dtype import DTYPES, Array, DType, array_from_bytes, bytes_from_array
from enginehouse.errors import InvalidInput, NotSupported
from service.codecs.client_tensors import RegionSlice
from service.codecs.json_codec import OutputForm, decode_request, encode_response
from service.request import InferResponse, Timings, WireTensor

TIMINGS = Timings(0, 0, 0, 0, 0, 1)
IN_JSON = [dtype for dtype in DTYPES.values() if dtype.name not in ("FP16", "BF16")]
INPUT: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


def decode(value: Any, tail: bytes | None = None, header_length: int | None = None) -> Any:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    if tail is None:
        return decode_request(text, header_length, "m", "")
    return decode_request(text + tail, len(text) if header_length is None else header_length, "m", "")


def arrays(dtype: DType) -> st.SearchStrategy[Array]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    if dtype.name == "BYTES":
        return hnp.arrays(object, shapes, elements=st.text(max_size=5), fill=st.nothing())
    if dtype.name == "BF16":
        return hnp.arrays(np.uint16, shapes).map(lambda array: array.view(dtype.numpy))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.numpy.kind == "f" else {}
    return hnp.arrays(dtype.numpy, shapes, elements=finite)


def typed_arrays(dtypes: list[DType]) -> st.SearchStrategy[tuple[DType, Array]]:
    return st.sampled_from(dtypes).flatmap(lambda dtype: st.tuples(st.just(dtype), arrays(dtype)))


@given(typed_arrays(IN_JSON), st.booleans())
def test_json_data_becomes_wire_bytes_nested_or_flat(pair: tuple[DType, Array], is_flat: bool) -> None:
    dtype, array = pair
    data = array.ravel().tolist() if is_flat or array.ndim == 0 else array.tolist()
    entry = {"name": "x", "datatype": dtype.name, "shape": list(array.shape), "data": data}
    request, _ = decode({"inputs": [entry], "id": "7"})
    (wire,) = request.inputs
    assert (wire.name, wire.dtype, wire.shape) == ("x", dtype, array.shape)
    assert wire.data == bytes_from_array(array, dtype)
    assert (request.model_name, request.model_version, request.id) == ("m", "", "7")


@given(st.lists(typed_arrays(list(DTYPES.values())), max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_outputs_survive_the_way_to_a_client(pairs: list[tuple[DType, Array]], binary: list[bool]) -> None:
    outputs = tuple(
        WireTensor(str(at), dtype, array.shape, bytes_from_array(array, dtype))
        for at, (dtype, array) in enumerate(pairs)
        if binary[at] or (dtype in IN_JSON and np.isfinite(array.astype(float)).all() if dtype.size_bytes else True)
    )
    form = OutputForm(False, {str(at): flag for at, flag in enumerate(binary)})
    header, chunks = encode_response(InferResponse("m", "3", "7", outputs, TIMINGS), form)
    answer = json.loads(header)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "3", "7")
    tail = b"".join(chunks)
    for wire, entry in zip(outputs, answer["outputs"], strict=True):
        assert (entry["name"], entry["datatype"], tuple(entry["shape"])) == (wire.name, wire.dtype.name, wire.shape)
        if form.of(wire.name):
            size = entry["parameters"]["binary_data_size"]
            data, tail = tail[:size], tail[size:]
        elif wire.dtype.size_bytes:
            data = np.array(entry["data"], wire.dtype.numpy).tobytes()
        else:
            items = np.empty(len(entry["data"]), dtype=object)
            items[:] = entry["data"]
            data = bytes_from_array(items, wire.dtype)
        assert data == bytes(wire.data)
    assert tail == b""


@given(st.lists(typed_arrays(list(DTYPES.values())), min_size=1, max_size=4))
def test_binary_inputs_are_taken_from_the_tail_in_order(pairs: list[tuple[DType, Array]]) -> None:
    raws = [bytes_from_array(array, dtype) for dtype, array in pairs]
    inputs = [
        {
            "name": str(at),
            "datatype": dtype.name,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        for at, ((dtype, array), raw) in enumerate(zip(pairs, raws, strict=True))
    ]
    request, _ = decode({"inputs": inputs}, b"".join(raws))
    assert [bytes(wire.data) for wire in request.inputs] == raws


def test_binary_and_json_inputs_mix_and_the_tail_is_not_copied() -> None:
    binary = {"name": "b", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    text = json.dumps({"inputs": [binary, INPUT]}).encode()
    body = bytearray(text + struct.pack("<f", 1))
    request, _ = decode_request(memoryview(body), len(text), "m", "1")
    body[-4:] = struct.pack("<f", 9)
    assert array_from_bytes(request.inputs[0].data, DTYPES["FP32"], (1,)).tolist() == [9]
    assert request.inputs[1].data == struct.pack("<2f", 1, 2)


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({}, {"y": False, "z": False}),
        ({"parameters": {"binary_data_output": True}}, {"y": True, "z": True}),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}]}, {"y": True, "z": False}),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
            },
            {"y": False, "z": True},
        ),
        ({"outputs": None}, {"y": False}),
        ({"outputs": []}, {"y": False}),
    ],
)
def test_the_form_of_an_output_is_its_own_wish_before_the_requests(
    request_fields: dict[str, Any], expected: dict[str, bool]
) -> None:
    request, form = decode({"inputs": [INPUT], **request_fields})
    assert {name: form.of(name) for name in expected} == expected
    assert request.outputs == tuple(entry["name"] for entry in request_fields.get("outputs") or [])


def nested(depth: int, core: Any) -> Any:
    for _ in range(depth):
        core = [core]
    return core


DEEP = b"[" * 900 + b"]" * 900
MALFORMED: list[tuple[Any, str]] = [
    (b"", "failed to parse"),
    (b"[]", "is a JSON list; an object"),
    (b'{"inputs": [], "inputs": 3}', "'inputs' must be a list"),
    ({"inputs": [3]}, "'inputs' must be a list of objects"),
    ({"inputs": [INPUT], "outputs": {}}, "'outputs' must be a list"),
    ({"inputs": [INPUT], "id": 7}, "'id' is int; a string"),
    ({"inputs": [INPUT], "parameters": {"a": [1]}}, "parameter 'a' of the request must be"),
    ({"inputs": [INPUT], "parameters": {"a": None}}, "parameter 'a' of the request must be"),
    ({"inputs": [INPUT | {"name": ""}]}, "an input has the name ''"),
    ({"inputs": [INPUT | {"name": nested(500, 1)}]}, "an input has the name [[[[["),
    ({"inputs": [INPUT | {"datatype": nested(500, 1)}]}, "unknown datatype [[[[["),
    ({"inputs": [INPUT | {"shape": nested(500, 1)}]}, "'shape' of input 'x' is [[[[["),
    (b'{"inputs": [{"name": "x", "datatype": "FP32", "data": [], "shape": ' + DEEP + b"}]}", "'shape' of input 'x'"),
    ({"inputs": [INPUT | {"shape": [True, 2]}]}, "'shape' of input 'x' is [True, 2]"),
    ({"inputs": [INPUT | {"shape": [1.0, 2]}]}, "'shape' of input 'x'"),
    ({"inputs": [INPUT | {"shape": [2**31]}]}, "'shape' of input 'x'"),
    ({"inputs": [INPUT | {"shape": [2**80]}]}, "'shape' of input 'x'"),
    ({"inputs": [INPUT | {"shape": [2**31 - 1] * 40}]}, "has 2 elements of data"),
    ({"inputs": [INPUT | {"data": 3}]}, "'data' is int; a list"),
    ({"inputs": [INPUT | {"data": {"a": 1}}]}, "'data' is dict; a list"),
    ({"inputs": [INPUT | {"data": [[1, 2], 3]}]}, "has 3 elements"),
    ({"inputs": [INPUT | {"data": [1, {}]}]}, "must be numbers, found dict"),
    ({"inputs": [INPUT | {"datatype": "INT32", "data": [1, 2.5]}]}, "must be whole numbers, found float"),
    ({"inputs": [INPUT | {"datatype": "INT32", "data": [1, True]}]}, "must be whole numbers, found bool"),
    ({"inputs": [INPUT | {"datatype": "BOOL", "data": [1, 0]}]}, "must be true or false, found int"),
    ({"inputs": [INPUT | {"datatype": "UINT8", "data": [1, 256]}]}, "a number that UINT8 cannot"),
    ({"inputs": [INPUT | {"datatype": "UINT64", "data": [1, -1]}]}, "a number that UINT64 cannot"),
    ({"inputs": [INPUT | {"datatype": "INT64", "data": [1, 2**63]}]}, "a number that INT64 cannot"),
    ({"inputs": [INPUT | {"datatype": "INT64", "data": [1, 2**64]}]}, "found float"),
    ({"inputs": [INPUT | {"datatype": "BYTES"}]}, "must be strings"),
    ({"inputs": [INPUT | {"datatype": "FP16"}]}, "receiving FP16 data via JSON is not supported"),
    ({"inputs": [INPUT | {"parameters": {"binary_data_size": True}, "data": 1}]}, "either 'data' or one of"),
]


@pytest.mark.parametrize(("value", "message"), MALFORMED, ids=[message[:40] for _, message in MALFORMED])
def test_malformed_is_refused_with_its_reason(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        decode(value)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("size", [True, 4.0, "4", -4, 2**62, 2**70])
def test_a_binary_size_that_is_none_is_refused(size: Any) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    with pytest.raises(InvalidInput, match="binary_data_size"):
        decode({"inputs": [entry]}, b"1234")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"123", "binary_data_size is 4, 3 bytes are left"),
        (b"12345", "unexpected additional input data for model: 1 bytes"),
    ],
)
def test_a_tail_of_another_length_is_refused(tail: bytes, message: str) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    with pytest.raises(InvalidInput, match=message):
        decode({"inputs": [entry]}, tail)


@pytest.mark.parametrize("length", [-1, 10**9, 2**70])
def test_a_header_length_outside_the_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length is"):
        decode({"inputs": [INPUT]}, b"", length)


REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": [INPUT | {"parameters": REGION}]},
        {"inputs": [INPUT], "outputs": [{"name": "y", "parameters": REGION}]},
    ],
)
def test_a_region_is_refused_where_clients_can_register_none(value: Any) -> None:
    with pytest.raises(NotSupported, match="which this server does not have"):
        decode(value)


class Memory:
    """One region of a client's, `r`."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def check(self, region: str, offset: int, byte_size: int) -> None:
        if region != "r" or offset + byte_size > len(self.data):
            raise InvalidInput(f"no {byte_size} bytes at {offset} of {region}")

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:
        self.check(region, offset, byte_size)
        return memoryview(self.data)[offset : offset + byte_size]

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:
        self.check(region, offset, byte_size)
        self.data[offset : offset + len(data)] = data


def test_an_input_is_read_from_the_clients_memory() -> None:
    memory = Memory(bytes(4) + struct.pack("<2f", 1, 2))
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": REGION}
    request, _ = decode_request(json.dumps({"inputs": [entry]}).encode(), None, "m", "", memory)
    assert bytes(request.inputs[0].data) == struct.pack("<2f", 1, 2)


def test_an_output_that_is_in_the_clients_memory_carries_neither_data_nor_parameters() -> None:
    """As from Triton, whose C++ client, and `perf_analyzer` with it, takes any parameters for `binary_data_size`."""
    outputs = [{"name": "y", "parameters": REGION}, {"name": "z"}]
    body = json.dumps({"inputs": [INPUT], "outputs": outputs}).encode()
    request, form = decode_request(body, None, "m", "", Memory(bytes(12)))
    assert request.outputs == ("y", "z")
    assert form.regions == {"y": RegionSlice("r", 4, 8)}
    wires = tuple(WireTensor(name, DTYPES["FP32"], (1,), struct.pack("<f", 3)) for name in ("y", "z"))
    header, chunks = encode_response(InferResponse("m", "1", "", wires, TIMINGS), form, {"y"})
    first, second = json.loads(header)["outputs"]
    assert first == {"name": "y", "datatype": "FP32", "shape": [1]}
    assert second["data"] == [3]
    assert chunks == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inputs": [INPUT | {"parameters": REGION}]}, "either 'data' or one of"),
        ({"inputs": [INPUT], "outputs": [{"name": "y", "parameters": REGION | {"classification": 1}}]}, "choose one"),
        (
            {"inputs": [INPUT], "outputs": [{"name": "y", "parameters": REGION | {"shared_memory_offset": 5}}]},
            "no 8 bytes at 5",
        ),
    ],
)
def test_a_region_that_does_not_fit_the_request_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_request(json.dumps(value).encode(), None, "m", "", Memory(bytes(12)))


def test_classification_is_a_wish_of_the_request() -> None:
    outputs = [{"name": "y", "parameters": {"classification": 3}}, {"name": "z", "parameters": {"classification": 0}}]
    request, _ = decode({"inputs": [INPUT], "outputs": outputs})
    assert request.classifications == {"y": 3}


def test_the_model_does_not_see_what_is_meant_for_the_codec() -> None:
    request, form = decode({"inputs": [INPUT], "parameters": {"binary_data_output": True, "mine": 1}})
    assert request.parameters == {"mine": 1}
    assert form.of("y")


def test_parameters_of_an_answer_are_told() -> None:
    header, _ = encode_response(InferResponse("m", "1", "", (), TIMINGS, {"a": 1, "b": "c"}), OutputForm(False, {}))
    assert json.loads(header)["parameters"] == {"a": 1, "b": "c"}


def test_one_deep_element_among_many_is_read_in_one_pass() -> None:
    count = 100_000
    shallow = b"1," * (count - 1)
    text = b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [%d], "data": [%s%s]}]}'
    # A pass over all elements for each level would take minutes here.
    request, _ = decode(text % (count, shallow, b"[" * 900 + b"2" + b"]" * 900))
    assert bytes(request.inputs[0].data) == b"\1" * (count - 1) + b"\2"


def test_uneven_nesting_keeps_the_order() -> None:
    data = [1, [2, [3, [4]], 5], [[6], 7], [], 8]
    request, _ = decode({"inputs": [INPUT | {"shape": [8], "data": data, "datatype": "INT8"}]})
    assert list(request.inputs[0].data) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("dtype", "array", "message"),
    [
        ("FP16", np.zeros(1, np.float16), "sending FP16 data via JSON is not supported"),
        ("FP32", np.array([1, np.inf], np.float32), "holds infinity, which JSON cannot"),
        ("FP64", np.array([-np.inf]), "holds infinity, which JSON cannot"),
        ("BYTES", np.array([b"\xff"], dtype=object), "is not UTF-8 text"),
    ],
)
def test_an_output_that_json_cannot_say_is_refused_and_binary_offered(dtype: str, array: Array, message: str) -> None:
    wire = WireTensor("y", DTYPES[dtype], array.shape, bytes_from_array(array, DTYPES[dtype]))
    response = InferResponse("m", "1", "", (wire,), TIMINGS)
    with pytest.raises(InvalidInput, match=message):
        encode_response(response, OutputForm(False, {}))
    _, chunks = encode_response(response, OutputForm(True, {}))
    assert chunks == [wire.data]


def test_not_a_number_is_null() -> None:
    wire = WireTensor("y", DTYPES["FP32"], (1,), np.array([np.nan], np.float32).tobytes())
    header, _ = encode_response(InferResponse("m", "1", "", (wire,), TIMINGS), OutputForm(False, {}))
    assert json.loads(header)["outputs"][0]["data"] == [None]
    assert "id" not in json.loads(header)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["name", "datatype", "shape", "data", "parameters"])
DATATYPES = st.sampled_from([*DTYPES, "FLOAT", "", None, 3])
SHAPES = st.lists(st.integers(-2, 4) | st.sampled_from([2**31 - 1, 2**31, 2**63, True, 1.0]), max_size=4)
MUTATED_INPUT = st.fixed_dictionaries(
    {"name": st.text(max_size=3) | JSON, "datatype": DATATYPES, "shape": SHAPES | JSON},
    optional={
        "data": st.lists(JSON, max_size=4) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region", "triton_x", "x"]), JSON | st.integers(0, 9)
        ),
    },
)
MUTATED = st.fixed_dictionaries(
    {"inputs": st.lists(MUTATED_INPUT | st.just(INPUT), max_size=3) | JSON},
    optional={"outputs": st.lists(st.fixed_dictionaries({"name": JSON, "parameters": JSON}), max_size=2) | JSON,
              "parameters": JSON, "id": JSON},
)  # fmt: skip


def decode_or_refuse(body: bytes, header_length: int | None) -> None:
    try:
        request, form = decode_request(body, header_length, "m", "")
    except (InvalidInput, NotSupported):
        return
    for wire in request.inputs:
        assert isinstance(wire.data, bytes | memoryview)
        assert all(type(size) is int and size >= 0 for size in wire.shape)
    assert isinstance(form.of("y"), bool)


@given(st.binary(max_size=60), st.none() | st.integers(-2, 70))
def test_any_bytes_are_a_request_or_refused(body: bytes, header_length: int | None) -> None:
    decode_or_refuse(body, header_length)


@settings(max_examples=400)
@given(MUTATED | JSON, st.binary(max_size=12), st.none() | st.integers(-3, 3))
def test_any_mutation_is_a_request_or_refused(value: Any, tail: bytes, shift: int | None) -> None:
    text = json.dumps(value).encode()
    decode_or_refuse(text + tail, None if shift is None else len(text) + shift)


@given(FIELDS, JSON)
def test_any_value_in_any_field_is_a_request_or_refused(field: str, value: Any) -> None:
    decode_or_refuse(json.dumps({"inputs": [INPUT | {field: value}]}).encode(), None)
