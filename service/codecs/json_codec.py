"""The REST form of an inference: JSON, and the binary tail that may follow it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from reprlib import repr as short_repr
from typing import Any

import orjson

from enginehouse.dtype import dtype_from_name
from enginehouse.errors import InvalidInput
from service.codecs.client_tensors import REGION, ClientMemory, RegionSlice
from service.codecs.json_tensor import bytes_from_json, json_from_tensor
from service.codecs.parameter_rules import check_name, output_wish, place_of
from service.request import InferRequest, InferResponse, Parameter, WireTensor

Body = bytes | memoryview


@dataclass(slots=True, frozen=True)
class OutputForm:
    """Which outputs the client wants in the binary tail, and which in its own memory."""

    is_binary_by_default: bool
    is_binary: Mapping[str, bool]
    regions: Mapping[str, RegionSlice] = field(default_factory=dict)

    def of(self, name: str) -> bool:
        """Whether an output goes to the tail."""
        return self.is_binary.get(name, self.is_binary_by_default)


def decode_request(
    body: Body, header_length: int | None, model_name: str, model_version: str, memory: ClientMemory | None = None
) -> tuple[InferRequest, OutputForm]:
    """Read an inference request.

    Args:
        body: JSON, then the raw tensors in the order of the inputs that announce a `binary_data_size`.
        header_length: bytes of JSON at the start; None if all of the body is JSON.
        model_name: from the address.
        model_version: from the address; empty for the newest.
        memory: what clients registered; None if they cannot.

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
    inputs = tuple(_input(entry, tail, memory) for entry in _list(header, "inputs"))
    tail.check_empty()
    parameters = parameters_of(header, "the request")
    outputs = _Outputs(header, _truth(parameters, "binary_data_output", False), memory)
    parameters.pop("binary_data_output", None)
    request = InferRequest(
        model_name,
        model_version,
        inputs,
        tuple(outputs.names),
        request_id_of(header),
        parameters,
        classifications=outputs.classifications,
    )
    return request, outputs.form()


def encode_response(
    response: InferResponse, form: OutputForm, written: Collection[str] = ()
) -> tuple[bytes, list[bytes | memoryview]]:
    """Write the JSON header, and the chunks of the binary tail.

    Args:
        response: the answer.
        form: how the client wants its outputs.
        written: names of the outputs that are in the client's memory already.

    Raises:
        InvalidInput: an output cannot be said in JSON.
    """
    chunks: list[bytes | memoryview] = []
    outputs: list[dict[str, Any]] = []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.dtype.name, "shape": tensor.shape}
        # Triton's C++ client reads any parameters of an output as the size of binary data: none for memory of its own.
        if tensor.name not in written:
            if form.of(tensor.name):
                entry["parameters"] = {"binary_data_size": len(tensor.data)}
                chunks.append(tensor.data)
            else:
                entry["data"] = json_from_tensor(tensor)
        outputs.append(entry)
    header: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": outputs,
    }
    if response.id:
        header["id"] = response.id
    if response.parameters:
        header["parameters"] = response.parameters
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
        raise InvalidInput(f"'{key}' must be a list of objects; found {short_repr(value)}.")
    return value


def request_id_of(header: Mapping[str, Any]) -> str:
    """What the client calls its request; empty if it does not."""
    request_id = header.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"'id' is {type(request_id).__name__}; a string is expected.")
    return request_id


def parameters_of(owner: Mapping[str, Any], whose: str) -> dict[str, Parameter]:
    """The `parameters` of a request or a tensor; raises `InvalidInput` for what is none, and for reserved names."""
    value = owner.get("parameters", {})
    if not isinstance(value, dict):
        raise InvalidInput(f"'parameters' of {whose} must be an object; found {short_repr(value)}.")
    for key, item in value.items():
        check_parameter(key, item, whose)
    return value


def check_parameter(key: str, value: Any, whose: str) -> None:
    """Raise `InvalidInput` for a value that no parameter can have, and for a reserved name."""
    if not isinstance(value, str | bool | int | float):
        raise InvalidInput(
            f"parameter '{key[:80]}' of {whose} must be a string, a number or a boolean; it has invalid type."
        )
    check_name(key, whose)


def _input(entry: Mapping[str, Any], tail: _Tail, memory: ClientMemory | None) -> WireTensor:
    name = _name(entry, "input")
    dtype = dtype_from_name(entry.get("datatype", ""))
    shape = _shape(entry.get("shape"), name)
    parameters = parameters_of(entry, f"input '{name}'")
    place = place_of(parameters, f"input '{name}'", memory)
    size = parameters.get("binary_data_size")
    if (place is not None) + (size is not None) + ("data" in entry) != 1:
        raise InvalidInput(
            f"input '{name}' must have either 'data' or one of the parameters 'binary_data_size' and '{REGION}'."
        )
    if place is not None:
        assert memory is not None
        return WireTensor(name, dtype, shape, memory.view(place.region, place.offset, place.byte_size))
    if size is None:
        return WireTensor(name, dtype, shape, bytes_from_json(entry["data"], dtype, shape, name))
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


def _truth(parameters: Mapping[str, Parameter], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"Unable to parse '{name}', got: {short_repr(value)}; true or false is expected.")
    return value


class _Outputs:
    """The outputs that a request names, and the form it wants them in."""

    def __init__(self, header: Mapping[str, Any], is_binary_by_default: bool, memory: ClientMemory | None) -> None:
        self.names: list[str] = []
        self.classifications: dict[str, int] = {}
        self._is_binary_by_default = is_binary_by_default
        self._is_binary: dict[str, bool] = {}
        self._regions: dict[str, RegionSlice] = {}
        for entry in _list(header, "outputs") if header.get("outputs") is not None else []:
            self._add(_name(entry, "output"), entry, memory)

    def form(self) -> OutputForm:
        return OutputForm(self._is_binary_by_default, self._is_binary, self._regions)

    def _add(self, name: str, entry: Mapping[str, Any], memory: ClientMemory | None) -> None:
        wanted = parameters_of(entry, f"output '{name}'")
        place, classes = output_wish(wanted, name, memory)
        if place is not None:
            self._regions[name] = place
        if classes:
            self.classifications[name] = classes
        self.names.append(name)
        self._is_binary[name] = _truth(wanted, "binary_data", self._is_binary_by_default)
