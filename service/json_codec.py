"""The REST form of an inference: JSON, and the binary tail that may follow it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short_repr
from typing import Any

import numpy as np
import orjson

from enginehouse.dtype import Array, DType, array_from_bytes, bytes_from_array, dtype_from_name
from enginehouse.errors import InvalidInput, NotSupported
from service.request import InferRequest, InferResponse, Parameter, WireTensor

Body = bytes | memoryview

_SHARED_MEMORY = "shared_memory_region"
_NO_JSON = ("FP16", "BF16")


@dataclass(slots=True, frozen=True)
class OutputForm:
    """Which outputs the client wants in the binary tail."""

    is_binary_by_default: bool
    is_binary: Mapping[str, bool]

    def of(self, name: str) -> bool:
        return self.is_binary.get(name, self.is_binary_by_default)


def decode_request(
    body: Body, header_length: int | None, model_name: str, model_version: str
) -> tuple[InferRequest, OutputForm]:
    """Read an inference request.

    Args:
        body: JSON, then the raw tensors in the order of the inputs that announce a `binary_data_size`.
        header_length: bytes of JSON at the start; None if all of the body is JSON.
        model_name: from the address.
        model_version: from the address; empty for the newest.

    Raises:
        InvalidInput: saying what is wrong with which part.
        NotSupported: a feature of the protocol that is not there.
    """
    view = memoryview(body)
    end = len(view) if header_length is None else header_length
    if not 0 <= end <= len(view):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(view)} bytes; "
            "the header cannot be longer than the body."
        )
    header = object_from_json(view[:end])
    tail = _Tail(view[end:])
    inputs = tuple(_input(entry, tail) for entry in _list(header, "inputs"))
    tail.check_empty()
    parameters = _parameters(header, "the request")
    outputs, form = _outputs(header, parameters)
    request_id = header.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"'id' is {type(request_id).__name__}; a string is expected.")
    return InferRequest(model_name, model_version, inputs, outputs, request_id, parameters), form


def encode_response(response: InferResponse, form: OutputForm) -> tuple[bytes, list[bytes | memoryview]]:
    """Write the JSON header, and the chunks of the binary tail.

    Raises:
        InvalidInput: an output cannot be said in JSON.
    """
    chunks: list[bytes | memoryview] = []
    outputs: list[dict[str, Any]] = []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.dtype.name, "shape": tensor.shape}
        if form.of(tensor.name):
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            chunks.append(tensor.data)
        else:
            entry["data"] = _json_from_tensor(tensor)
        outputs.append(entry)
    header: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": outputs,
    }
    if response.id:
        header["id"] = response.id
    return orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY), chunks


class _Tail:
    """The raw tensors behind the JSON, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int, name: str) -> memoryview:
        left = len(self._data) - self._position
        if count > left:
            raise InvalidInput(
                f"unexpected size for input '{name}': binary_data_size is {count}, {left} bytes are left in the body."
            )
        self._position += count
        return self._data[self._position - count : self._position]

    def check_empty(self) -> None:
        left = len(self._data) - self._position
        if left:
            raise InvalidInput(
                f"unexpected additional input data for model: {left} bytes follow the last input that announces any."
            )


def object_from_json(data: Body) -> dict[str, Any]:
    """Parse a JSON object; raises `InvalidInput` for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        raise InvalidInput(f"failed to parse the request JSON buffer: {problem}.") from problem
    if not isinstance(value, dict):
        raise InvalidInput(f"the request is a JSON {type(value).__name__}; an object is expected.")
    return value


def _list(header: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = header.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidInput(f"'{key}' must be a list of objects.")
    return value


def _parameters(owner: Mapping[str, Any], whose: str) -> dict[str, Parameter]:
    value = owner.get("parameters", {})
    if not isinstance(value, dict):
        raise InvalidInput(f"'parameters' of {whose} must be an object.")
    for key, item in value.items():
        if not isinstance(item, str | bool | int | float):
            raise InvalidInput(f"parameter '{key}' of {whose} must be a string, a number or a boolean.")
        if key.startswith("triton_"):
            raise InvalidInput(f"parameter keys starting with 'triton_' are reserved; '{key}' of {whose} is one.")
    return value


def _input(entry: Mapping[str, Any], tail: _Tail) -> WireTensor:
    name = _name(entry, "input")
    dtype = dtype_from_name(entry.get("datatype", ""))
    shape = _shape(entry.get("shape"), name)
    parameters = _parameters(entry, f"input '{name}'")
    if _SHARED_MEMORY in parameters:
        raise NotSupported(f"input '{name}' names a shared memory region, which this server does not have.")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise InvalidInput(f"input '{name}' must have either 'data' or the parameter 'binary_data_size'.")
    if size is None:
        return WireTensor(name, dtype, shape, _bytes_from_json(entry["data"], dtype, shape, name))
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidInput(f"binary_data_size of input '{name}' is {size!r}; a byte count is expected.")
    return WireTensor(name, dtype, shape, tail.take(size, name))


def _name(entry: Mapping[str, Any], kind: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"an {kind} has the name {short_repr(name)}; a string is expected.")
    return name


def _shape(value: Any, name: str) -> tuple[int, ...]:
    is_list = isinstance(value, list)
    if not is_list or not all(type(size) is int and 0 <= size < 2**31 for size in value):
        raise InvalidInput(f"'shape' of input '{name}' is {short_repr(value)}; a list of sizes from 0 is expected.")
    return tuple(value)


def _outputs(header: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> tuple[tuple[str, ...], OutputForm]:
    by_default = parameters.get("binary_data_output", False)
    entries = _list(header, "outputs") if header.get("outputs") is not None else []
    names: list[str] = []
    is_binary: dict[str, bool] = {}
    for entry in entries:
        name = _name(entry, "output")
        wanted = _parameters(entry, f"output '{name}'")
        for feature in ("classification", _SHARED_MEMORY):
            if wanted.get(feature):
                raise NotSupported(f"output '{name}' asks for '{feature}', which this server does not have.")
        names.append(name)
        is_binary[name] = bool(wanted.get("binary_data", by_default))
    return tuple(names), OutputForm(bool(by_default), is_binary)


def _bytes_from_json(data: Any, dtype: DType, shape: tuple[int, ...], name: str) -> bytes:
    """Turn nested or flat JSON data into wire form, refusing what would lose meaning on the way."""
    if dtype.name in _NO_JSON:
        raise InvalidInput(
            f"receiving {dtype.name} data via JSON is not supported; send input '{name}' with binary_data_size."
        )
    items = _flat(data)
    count = math.prod(shape)
    if len(items) != count:
        raise InvalidInput(f"input '{name}' has {len(items)} elements of data; its shape {list(shape)} needs {count}.")
    if not dtype.size_bytes:
        return bytes_from_array(_text_array(items, name), dtype)
    return _number_array(items, dtype, name).tobytes()


def _flat(data: Any) -> list[Any]:
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
        raise InvalidInput(f"input '{name}' is BYTES; its JSON data must be strings.")
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


def _json_from_tensor(tensor: WireTensor) -> Any:
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
