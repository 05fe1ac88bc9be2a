"""Element types: every vocabulary names the same thing, and wire bytes survive the way there and back."""

import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from enginehouse.dtype import (
    DTYPES,
    Array,
    DType,
    array_from_bytes,
    bytes_from_array,
    dtype_from_config_name,
    dtype_from_name,
    dtype_from_onnx,
    dtype_from_ort,
)
from enginehouse.errors import InvalidInput
from enginehouse.proto.grpc_service_pb2 import InferTensorContents
from enginehouse.proto.model_config_pb2 import DataType

FIXED = [dtype for dtype in DTYPES.values() if dtype.size_bytes]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_vocabulary_leads_to_the_same_row(dtype: DType) -> None:
    assert dtype_from_name(dtype.name) is dtype
    assert dtype_from_config_name(dtype.config_name) is dtype
    assert dtype_from_onnx(dtype.onnx_code) is dtype
    assert dtype_from_ort(dtype.ort_name) is dtype


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_row_agrees_with_onnx_numpy_and_the_proto(dtype: DType) -> None:
    expected = helper.tensor_dtype_to_np_dtype(dtype.onnx_code)
    assert dtype.numpy == expected
    assert dtype.size_bytes == (0 if dtype.name == "BYTES" else expected.itemsize)
    assert dtype.config_name in set(DataType.keys())
    fields = InferTensorContents.DESCRIPTOR.fields_by_name
    assert (dtype.contents_field in fields) == (dtype.name not in ("FP16", "BF16"))


def test_no_word_of_the_proto_is_without_a_row() -> None:
    assert {dtype.config_name for dtype in DTYPES.values()} == set(DataType.keys()) - {"TYPE_INVALID"}


@pytest.mark.parametrize(
    ("call", "argument", "message"),
    [
        (dtype_from_name, "FLOAT", "unknown datatype 'FLOAT'; expected one of BOOL, UINT8"),
        (dtype_from_name, ["FP32"], "unknown datatype ['FP32']"),
        (dtype_from_name, None, "unknown datatype None"),
        (dtype_from_config_name, "TYPE_INVALID", "unknown data_type TYPE_INVALID"),
        (dtype_from_onnx, TensorProto.COMPLEX64, "ONNX element type 14 has no counterpart"),
        (dtype_from_ort, "seq(tensor(float))", "cannot be served; only tensors can"),
    ],
)
def test_an_unknown_word_is_refused_by_name(call: Any, argument: object, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        call(argument)
    assert message in str(refusal.value)


def test_a_datatype_nested_deeper_than_python_prints_is_refused_as_any_other() -> None:
    nested: Any = []
    for _ in range(2000):
        nested = [nested]
    with pytest.raises(InvalidInput, match="unknown datatype"):
        dtype_from_name(nested)


@given(st.sampled_from(FIXED).flatmap(lambda dtype: st.tuples(st.just(dtype), fixed_arrays(dtype))))
def test_fixed_size_elements_survive_the_wire(pair: tuple[DType, Array]) -> None:
    dtype, array = pair
    data = bytes_from_array(array, dtype)
    assert len(data) == dtype.size_bytes * array.size
    for given_as in (data, memoryview(data)):
        back = array_from_bytes(given_as, dtype, array.shape)
        assert back.dtype == dtype.numpy
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()


def fixed_arrays(dtype: DType) -> st.SearchStrategy[Array]:
    bits = np.dtype(f"u{dtype.size_bytes}")
    raw = np.dtype(np.bool_) if dtype.name == "BOOL" else bits
    return hnp.arrays(raw, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)).map(
        lambda array: array.view(dtype.numpy)
    )


@given(st.lists(st.binary(max_size=300)))
def test_bytes_elements_survive_the_wire(items: list[bytes]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    data = bytes_from_array(array, DTYPES["BYTES"])
    assert data == b"".join(struct.pack("<I", len(item)) + item for item in items)
    assert array_from_bytes(data, DTYPES["BYTES"], (len(items),)).tolist() == items


@given(st.lists(st.binary(max_size=20), min_size=1), st.data())
def test_bytes_cut_anywhere_are_refused(items: list[bytes], data: st.DataObject) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    whole = bytes_from_array(array, DTYPES["BYTES"])
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidInput, match="BYTES"):
        array_from_bytes(whole[:cut], DTYPES["BYTES"], (len(items),))


@given(st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_are_elements_or_refused(data: bytes, count: int) -> None:
    try:
        array = array_from_bytes(data, DTYPES["BYTES"], (count,))
    except InvalidInput:
        return
    assert bytes_from_array(array, DTYPES["BYTES"]) == data


def test_text_goes_as_utf_8_and_in_row_major_order() -> None:
    array = np.array([["ä", b"b"], ["", "d"]], dtype=object)
    data = bytes_from_array(array.T, DTYPES["BYTES"])
    assert array_from_bytes(data, DTYPES["BYTES"], (2, 2)).tolist() == [["ä".encode(), b""], [b"b", b"d"]]


def test_a_number_is_no_element_of_bytes() -> None:
    with pytest.raises(TypeError):
        bytes_from_array(np.array([7], dtype=object), DTYPES["BYTES"])


def test_bf16_is_the_high_half_of_fp32() -> None:
    array = np.array([1.0, -2.5, 3e38], dtype=np.float32).astype(ml_dtypes.bfloat16)
    halves = array.astype(np.float32).tobytes()
    assert bytes_from_array(array, DTYPES["BF16"]) == b"".join(halves[at + 2 : at + 4] for at in (0, 4, 8))


def test_numbers_are_viewed_not_copied() -> None:
    data = bytearray(struct.pack("<2f", 1, 2))
    array = array_from_bytes(memoryview(data), DTYPES["FP32"], (2,))
    data[:4] = struct.pack("<f", 9)
    assert array.tolist() == [9, 2]


@pytest.mark.parametrize("name", ["FP32", "BYTES"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [((3,), "expected"), ((), "expected"), ((0, 2**62, 2**62), "larger than"), ((0, 2**80), "larger than")],
)
def test_a_shape_that_does_not_fit_the_bytes_is_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    data = struct.pack("<2f", 1, 2) if name == "FP32" else struct.pack("<II", 0, 0)
    with pytest.raises(InvalidInput, match=message):
        array_from_bytes(b"" if 0 in shape else data, DTYPES[name], shape)
