"""The gRPC form of an inference: raw contents or typed contents in, raw contents out."""

import math
from typing import Any

import numpy as np

from enginehouse.dtype import DType, bytes_from_array, dtype_from_name
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.request import InferRequest, InferResponse, Parameter, WireTensor

_CONTENTS_FIELDS = (
    "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
    "fp32_contents", "fp64_contents", "bytes_contents",
)  # fmt: skip
_NOT_HERE = ("classification", "shared_memory_region")


def decode_request(message: ModelInferRequest) -> InferRequest:
    """Read an inference request; raises `InvalidInput` saying what is wrong with which part."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs; one for each is expected."
        )
    inputs = tuple(_input(tensor, raw[position] if raw else None) for position, tensor in enumerate(message.inputs))
    for output in message.outputs:
        _refuse_missing_features(_parameters(output.parameters), f"output '{output.name}'")
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        inputs=inputs,
        outputs=tuple(output.name for output in message.outputs),
        id=message.id,
        parameters=_parameters(message.parameters),
    )


def encode_response(response: InferResponse) -> ModelInferResponse:
    """Write the answer; every output is raw, because clients read nothing else reliably."""
    return ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id,
        outputs=[
            ModelInferResponse.InferOutputTensor(name=tensor.name, datatype=tensor.dtype.name, shape=tensor.shape)
            for tensor in response.outputs
        ],
        raw_output_contents=[bytes(tensor.data) for tensor in response.outputs],
    )


def _input(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> WireTensor:
    dtype = dtype_from_name(tensor.datatype)
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"'shape' of input '{tensor.name}' is {list(shape)}; sizes from 0 are expected.")
    _refuse_missing_features(_parameters(tensor.parameters), f"input '{tensor.name}'")
    if raw is None:
        return WireTensor(tensor.name, dtype, shape, _bytes_from_contents(tensor, dtype, shape))
    if tensor.HasField("contents"):
        raise InvalidInput(
            f"unexpected explicit tensor data for input '{tensor.name}': binary data was already supplied."
        )
    return WireTensor(tensor.name, dtype, shape, raw)


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


def _parameters(message: Any) -> dict[str, Parameter]:
    """Unwrap the parameter map; a parameter without a value is nobody's wish."""
    values: dict[str, Parameter] = {}
    for key, parameter in message.items():
        choice = parameter.WhichOneof("parameter_choice")
        if key.startswith("triton_"):
            raise InvalidInput(f"parameter keys starting with 'triton_' are reserved; '{key}' is one.")
        if choice is not None:
            values[key] = getattr(parameter, choice)
    return values


def _refuse_missing_features(parameters: dict[str, Parameter], whose: str) -> None:
    for feature in _NOT_HERE:
        if parameters.get(feature):
            raise NotSupported(f"{whose} asks for '{feature}', which this server does not have.")
