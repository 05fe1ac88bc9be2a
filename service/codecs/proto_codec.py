"""The gRPC form of an inference: raw or typed contents in, raw contents out, or in memory of the client's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enginehouse.dtype import DType, bytes_from_array, dtype_from_name
from enginehouse.errors import InvalidInput
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.codecs.client_tensors import (
    BYTE_SIZE,
    OFFSET,
    REGION,
    ClientMemory,
    RegionSlice,
    slice_from_parameters,
    write_outputs,
)
from service.codecs.parameter_rules import check_name, output_wish
from service.request import InferRequest, InferResponse, Parameter, WireTensor

EMPTY_FINAL = "triton_enable_empty_final_response"

_CONTENTS_FIELDS = (
    "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
    "fp32_contents", "fp64_contents", "bytes_contents",
)  # fmt: skip
_INT64_LIMIT, _UINT64_LIMIT = 2**63, 2**64


@dataclass(slots=True, frozen=True)
class ReplyForm:
    """How the client wants its answer.

    Attributes:
        slices: outputs that go to its own memory.
        wants_empty_final: whether a last response without outputs is sent as well.
    """

    slices: Mapping[str, RegionSlice] = field(default_factory=dict)
    wants_empty_final: bool = False


def decode_request(message: ModelInferRequest, memory: ClientMemory) -> tuple[InferRequest, ReplyForm]:
    """Read an inference request; raises `InvalidInput` saying what is wrong with which part.

    Args:
        message: as it came.
        memory: where inputs may lie, and outputs may go.
    """
    parameters = _unwrapped(message.parameters)
    wants_empty_final = parameters.pop(EMPTY_FINAL, False)
    if not isinstance(wants_empty_final, bool):
        raise InvalidInput(f"parameter '{EMPTY_FINAL}' is {wants_empty_final!r}; a boolean is expected.")
    _check_names(parameters, "the request")
    slices: dict[str, RegionSlice] = {}
    classifications: dict[str, int] = {}
    for output in message.outputs:
        if output.parameters:
            place, classes = output_wish(_parameters(output.parameters, f"output '{output.name}'"), output.name, memory)
            if place is not None:
                slices[output.name] = place
            if classes:
                classifications[output.name] = classes
    request = InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        inputs=_inputs(message, memory),
        outputs=tuple(output.name for output in message.outputs),
        id=message.id,
        parameters=parameters,
        classifications=classifications,
    )
    return request, ReplyForm(slices, wants_empty_final)


def encode_response(response: InferResponse, form: ReplyForm, memory: ClientMemory) -> ModelInferResponse:
    """Write the answer; every output is raw, because clients read nothing else reliably.

    An output in the client's memory has an empty place among the raw ones.

    Raises:
        InvalidInput: an output does not fit where the client wants it.
    """
    written = write_outputs(response.outputs, form.slices, memory)
    answer = ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id,
        outputs=[
            ModelInferResponse.InferOutputTensor(name=tensor.name, datatype=tensor.dtype.name, shape=tensor.shape)
            for tensor in response.outputs
        ],
        raw_output_contents=[b"" if tensor.name in written else bytes(tensor.data) for tensor in response.outputs],
    )
    for key, value in response.parameters.items():
        set_parameter(answer.parameters, key, value)
    if written:
        _name_slices(answer, response, form.slices)
    return answer


def set_parameter(parameters: Any, key: str, value: Parameter) -> None:
    """Put a value into a parameter map, in the field of its type."""
    entry = parameters[key]
    if isinstance(value, bool):
        entry.bool_param = value
    elif isinstance(value, str):
        entry.string_param = value
    elif isinstance(value, float):
        entry.double_param = value
    elif -_INT64_LIMIT <= value < _INT64_LIMIT:
        entry.int64_param = value
    elif 0 <= value < _UINT64_LIMIT:
        entry.uint64_param = value
    else:
        entry.string_param = str(value)


def _name_slices(answer: ModelInferResponse, response: InferResponse, slices: Mapping[str, RegionSlice]) -> None:
    for entry, tensor in zip(answer.outputs, response.outputs, strict=True):
        place = slices.get(tensor.name)
        if place is not None:
            set_parameter(entry.parameters, REGION, place.region)
            set_parameter(entry.parameters, OFFSET, place.offset)
            set_parameter(entry.parameters, BYTE_SIZE, len(tensor.data))


def _inputs(message: ModelInferRequest, memory: ClientMemory) -> tuple[WireTensor, ...]:
    """Read the inputs; the raw contents belong to those that are not in the client's memory, in order."""
    slices = [_slice(tensor) for tensor in message.inputs]
    raw = message.raw_input_contents
    sent = slices.count(None)
    if raw:
        _refuse_contents(message, slices)
    if raw and len(raw) != sent:
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {sent} inputs; one for each is expected "
            "that is not in shared memory."
        )
    left: Iterator[bytes | None] = iter(raw) if raw else iter([None] * sent)
    return tuple(
        _input(tensor, next(left)) if place is None else _input_in_memory(tensor, place, memory)
        for tensor, place in zip(message.inputs, slices, strict=True)
    )


def _refuse_contents(message: ModelInferRequest, slices: Sequence[RegionSlice | None]) -> None:
    for tensor, place in zip(message.inputs, slices, strict=True):
        if place is None and tensor.HasField("contents"):
            raise InvalidInput(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{message.model_name}'."
            )


def _slice(tensor: ModelInferRequest.InferInputTensor) -> RegionSlice | None:
    if not tensor.parameters:
        return None
    whose = f"input '{tensor.name}'"
    return slice_from_parameters(_parameters(tensor.parameters, whose), whose)


def _input_in_memory(
    tensor: ModelInferRequest.InferInputTensor, place: RegionSlice, memory: ClientMemory
) -> WireTensor:
    if tensor.HasField("contents"):
        raise InvalidInput(
            f"unexpected explicit tensor data for input '{tensor.name}': it is in shared memory region "
            f"'{place.region[:80]}' already."
        )
    dtype, shape = dtype_from_name(tensor.datatype), _shape(tensor)
    expected = dtype.size_bytes * math.prod(shape)
    if dtype.size_bytes and expected != place.byte_size:
        raise InvalidInput(
            f"input '{tensor.name}' has {place.byte_size} bytes in shared memory; {dtype.name} {list(shape)} "
            f"needs {expected}."
        )
    return WireTensor(tensor.name, dtype, shape, memory.view(place.region, place.offset, place.byte_size))


def _input(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> WireTensor:
    dtype, shape = dtype_from_name(tensor.datatype), _shape(tensor)
    if raw is None:
        return WireTensor(tensor.name, dtype, shape, _bytes_from_contents(tensor, dtype, shape))
    return WireTensor(tensor.name, dtype, shape, raw)


def _shape(tensor: ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"'shape' of input '{tensor.name}' is {list(shape)}; sizes from 0 are expected.")
    return shape


def _bytes_from_contents(tensor: ModelInferRequest.InferInputTensor, dtype: DType, shape: tuple[int, ...]) -> bytes:
    if not dtype.contents_field:
        raise InvalidInput(f"{dtype.name} has no typed contents; send input '{tensor.name}' in raw_input_contents.")
    used = [name for name in _CONTENTS_FIELDS if len(getattr(tensor.contents, name))]
    if used not in ([], [dtype.contents_field]):
        raise InvalidInput(
            f"input '{tensor.name}' is {dtype.name} and must be given in {dtype.contents_field}; found {used}."
        )
    items = getattr(tensor.contents, dtype.contents_field)
    count = math.prod(shape)
    if len(items) != count:
        raise InvalidInput(
            f"unexpected number of elements {len(items)} for input '{tensor.name}'; {list(shape)} needs {count}."
        )
    if not dtype.size_bytes:
        array = np.empty(count, dtype=object)
        array[:] = list(items)
        return bytes_from_array(array, dtype)
    try:
        return np.array(items, dtype=dtype.numpy).tobytes()
    except OverflowError as problem:
        raise InvalidInput(f"input '{tensor.name}' holds a number that {dtype.name} cannot: {problem}.") from problem


def _parameters(message: Any, whose: str) -> dict[str, Parameter]:
    parameters = _unwrapped(message)
    _check_names(parameters, whose)
    return parameters


def _unwrapped(message: Any) -> dict[str, Parameter]:
    """Unwrap the parameter map; a parameter without a value is nobody's wish."""
    values: dict[str, Parameter] = {}
    for key, parameter in message.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            values[key] = getattr(parameter, choice)
    return values


def _check_names(parameters: Mapping[str, Parameter], whose: str) -> None:
    for key in parameters:
        check_name(key, whose)
