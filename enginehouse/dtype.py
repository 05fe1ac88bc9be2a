"""One table of element types, in every vocabulary that the two programs meet.

Wire form: little-endian, row-major, no padding; BF16 is the high half of an FP32; BYTES is, per element, a
4-byte little-endian length and then the bytes.
"""

import struct
from dataclasses import dataclass
from reprlib import repr as short_repr
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from enginehouse.errors import InvalidInput

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: word of the inference protocol, such as `FP32`.
        config_name: word of ModelConfig, such as `TYPE_FP32`.
        onnx_code: number in `onnx.TensorProto.DataType`.
        ort_name: what ONNX Runtime calls a tensor of it, such as `tensor(float)`.
        numpy: the array type; `object` for BYTES.
        size_bytes: bytes per element; 0 for BYTES, whose elements vary.
        contents_field: field of `InferTensorContents` that carries it typed; empty if there is none.
    """

    name: str
    config_name: str
    onnx_code: int
    ort_name: str
    numpy: np.dtype[Any]
    size_bytes: int
    contents_field: str


def _row(name: str, config: str, onnx_code: int, ort: str, kind: Any, contents: str) -> DType:
    array_type = np.dtype(kind)
    size = 0 if array_type.hasobject else array_type.itemsize
    return DType(name, f"TYPE_{config}", onnx_code, f"tensor({ort})", array_type, size, contents)


DTYPES: dict[str, DType] = {
    row.name: row
    for row in (
        _row("BOOL", "BOOL", 9, "bool", np.bool_, "bool_contents"),
        _row("UINT8", "UINT8", 2, "uint8", np.uint8, "uint_contents"),
        _row("UINT16", "UINT16", 4, "uint16", np.uint16, "uint_contents"),
        _row("UINT32", "UINT32", 12, "uint32", np.uint32, "uint_contents"),
        _row("UINT64", "UINT64", 13, "uint64", np.uint64, "uint64_contents"),
        _row("INT8", "INT8", 3, "int8", np.int8, "int_contents"),
        _row("INT16", "INT16", 5, "int16", np.int16, "int_contents"),
        _row("INT32", "INT32", 6, "int32", np.int32, "int_contents"),
        _row("INT64", "INT64", 7, "int64", np.int64, "int64_contents"),
        _row("FP16", "FP16", 10, "float16", np.float16, ""),
        _row("BF16", "BF16", 16, "bfloat16", ml_dtypes.bfloat16, ""),
        _row("FP32", "FP32", 1, "float", np.float32, "fp32_contents"),
        _row("FP64", "FP64", 11, "double", np.float64, "fp64_contents"),
        _row("BYTES", "STRING", 8, "string", object, "bytes_contents"),
    )
}

_BY_CONFIG_NAME = {row.config_name: row for row in DTYPES.values()}
_BY_ONNX_CODE = {row.onnx_code: row for row in DTYPES.values()}
_BY_ORT_NAME = {row.ort_name: row for row in DTYPES.values()}


def dtype_from_name(name: str) -> DType:
    """Look up the protocol's word; raises `InvalidInput` for an unknown one."""
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise InvalidInput(f"unknown datatype {short_repr(name)}; expected one of {', '.join(DTYPES)}.") from None


def dtype_from_config_name(name: str) -> DType:
    """Look up ModelConfig's word; raises `InvalidInput` for `TYPE_INVALID` and unknown ones."""
    try:
        return _BY_CONFIG_NAME[name]
    except KeyError:
        raise InvalidInput(f"unknown data_type {name}; expected one of {', '.join(_BY_CONFIG_NAME)}.") from None


def dtype_from_onnx(code: int) -> DType:
    """Look up ONNX's element type number; raises `InvalidInput` if no protocol word stands for it."""
    try:
        return _BY_ONNX_CODE[code]
    except KeyError:
        raise InvalidInput(f"ONNX element type {code} has no counterpart in the inference protocol.") from None


def dtype_from_ort(name: str) -> DType:
    """Look up ONNX Runtime's word; raises `InvalidInput` for sequences, maps and optionals."""
    try:
        return _BY_ORT_NAME[name]
    except KeyError:
        raise InvalidInput(f"ONNX Runtime type {name} cannot be served; only tensors can.") from None


def bytes_from_array(array: Array, dtype: DType) -> bytes:
    """Serialize an array in wire form; elements of BYTES may be `bytes` or `str` (sent as UTF-8)."""
    if dtype.size_bytes:
        return array.tobytes()
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        encoded = item.encode() if isinstance(item, str) else bytes(memoryview(item))
        parts.append(struct.pack("<I", len(encoded)))
        parts.append(encoded)
    return b"".join(parts)


def size_of(array: Array) -> int:
    """Bytes that the elements take; of text, its letters."""
    if array.dtype.kind != "O":
        return array.nbytes
    return sum(len(item) for item in array.ravel().tolist() if isinstance(item, str | bytes))


def array_from_bytes(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
    """View wire bytes as an array without copying (BYTES elements become `bytes` objects).

    Raises:
        InvalidInput: the byte count does not fit the shape, or no array can have it.
    """
    if dtype.size_bytes:
        expected = dtype.size_bytes * _count(shape)
        if len(data) != expected:
            raise InvalidInput(f"{len(data)} bytes given, {expected} expected for {dtype.name} {list(shape)}.")
        return _shaped(np.frombuffer(data, dtype=dtype.numpy), dtype, shape)
    items = _split_bytes_elements(data)
    if len(items) != _count(shape):
        raise InvalidInput(f"{len(items)} BYTES elements given, {_count(shape)} expected for shape {list(shape)}.")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return _shaped(array, dtype, shape)


def _shaped(array: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:
        # Nothing is in it, so the byte count agreed; the other sizes are beyond what an address can say.
        raise InvalidInput(f"shape {list(shape)} is larger than an array of {dtype.name} can be.") from None


def _split_bytes_elements(data: bytes | memoryview) -> list[bytes]:
    items: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        if position + 4 > end:
            raise InvalidInput(f"BYTES data ends inside the length of element {len(items)}; 4 bytes expected.")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > end:
            raise InvalidInput(f"BYTES element {len(items)} announces {length} bytes, {end - position} are left.")
        items.append(bytes(data[position : position + length]))
        position += length
    return items


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
