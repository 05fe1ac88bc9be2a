"""One tensor as JSON: nested or flat data in, flat data out."""

import math
from typing import Any

import numpy as np

from enginehouse.dtype import Array, DType, array_from_bytes, bytes_from_array
from enginehouse.errors import InvalidInput
from service.request import WireTensor

_NO_JSON = ("FP16", "BF16")


def bytes_from_json(data: Any, dtype: DType, shape: tuple[int, ...], name: str) -> bytes:
    """Turn nested or flat JSON data into wire form, refusing what would lose meaning on the way."""
    if dtype.name in _NO_JSON:
        raise InvalidInput(
            f"receiving {dtype.name} data via JSON is not supported; send input '{name}' with binary_data_size."
        )
    items = flat(data)
    count = math.prod(shape)
    if len(items) != count:
        raise InvalidInput(f"input '{name}' has {len(items)} elements of data; its shape {list(shape)} needs {count}.")
    if not dtype.size_bytes:
        return bytes_from_array(_text_array(items, name), dtype)
    return _number_array(items, dtype, name).tobytes()


def flat(data: Any) -> list[Any]:
    """Flatten nested lists in order, each element once and without recursion: the depth is the client's choice."""
    if not isinstance(data, list):
        raise InvalidInput(f"'data' is {type(data).__name__}; a list is expected.")
    leaves: list[Any] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if type(item) is not list:
                leaves.append(item)
            elif list in map(type, item):
                stack.append(iter(item))
                break
            else:
                leaves.extend(item)
        else:
            stack.pop()
    return leaves


def _text_array(items: list[Any], name: str) -> Array:
    if not all(isinstance(item, str) for item in items):
        found = ", ".join(sorted({type(item).__name__ for item in items} - {"str"}))
        raise InvalidInput(f"input '{name}' is BYTES; its JSON data must be strings, found {found}.")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _number_array(items: list[Any], dtype: DType, name: str) -> Array:
    kinds = {type(item) for item in items}
    allowed: set[type]
    if dtype.name == "BOOL":
        expected, allowed = "true or false", {bool}
    elif dtype.numpy.kind in "iu":
        expected, allowed = "whole numbers", {int}
    else:
        expected, allowed = "numbers", {int, float}
    if not kinds <= allowed:
        found = ", ".join(sorted(kind.__name__ for kind in kinds - allowed))
        raise InvalidInput(f"input '{name}' is {dtype.name}; its data must be {expected}, found {found}.")
    try:
        with np.errstate(over="ignore"):
            return np.array(items, dtype=dtype.numpy)
    except (OverflowError, ValueError) as problem:
        raise InvalidInput(f"input '{name}' holds a number that {dtype.name} cannot: {problem}.") from problem


def json_from_tensor(tensor: WireTensor) -> Any:
    """Turn a tensor into flat JSON data; raises `InvalidInput` for what JSON cannot say."""
    if tensor.dtype.name in _NO_JSON:
        raise InvalidInput(
            f"sending {tensor.dtype.name} data via JSON is not supported; ask for output '{tensor.name}' "
            "with binary_data true."
        )
    array = array_from_bytes(tensor.data, tensor.dtype, tensor.shape).ravel()
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise InvalidInput(
            f"output '{tensor.name}' holds infinity, which JSON cannot; ask for it with binary_data true."
        )
    if tensor.dtype.size_bytes:
        return array
    try:
        return [item.decode() for item in array.tolist()]
    except UnicodeDecodeError as problem:
        raise InvalidInput(f"output '{tensor.name}' is not UTF-8 text; ask for it with binary_data true.") from problem
