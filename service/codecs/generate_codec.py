"""The generate extension's form of a request and its answers: one flat JSON object, keyed by the names of tensors.

A key that is an input of the model is that input, any other is a parameter; an object under `parameters` holds more of
both. A value of one element is written without its list.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from service.codecs.json_codec import Body, check_parameter, object_from_json, request_id_of
from service.codecs.json_tensor import bytes_from_json, flat, json_from_tensor
from service.request import InferRequest, InferResponse, Parameter, WireTensor

_NESTED = "parameters"
_ID = "id"


def decode_generate(body: Body, specs: Sequence[TensorSpec], model_name: str, model_version: str) -> InferRequest:
    """Read a request for a model with these inputs; raises `InvalidInput` saying what is wrong with which key."""
    header = object_from_json(body)
    inputs = {spec.name: spec for spec in specs}
    nested = header.pop(_NESTED, {})
    if _NESTED in inputs:
        raise InvalidInput(f"Keyword '{_NESTED}' for nested schema also given as input tensor name; use infer instead.")
    if not isinstance(nested, dict):
        raise InvalidInput(f"Expected JSON object for keyword: '{_NESTED}'; found {type(nested).__name__}.")
    request_id = "" if _ID in inputs else request_id_of(header)
    tensors: dict[str, WireTensor] = {}
    parameters: dict[str, Parameter] = {}
    for fields in (header, nested):
        for key, value in fields.items():
            if key in tensors:
                raise InvalidInput(f"input '{key}' already exists in request; give it once.")
            if key in inputs:
                tensors[key] = _tensor(value, inputs[key])
            elif fields is nested or key != _ID:
                check_parameter(key, value, "the request")
                parameters[key] = value
    return InferRequest(model_name, model_version, tuple(tensors.values()), id=request_id, parameters=parameters)


def encode_generate(response: InferResponse) -> bytes:
    """Write one answer; raises `InvalidInput` for an output that JSON cannot say."""
    answer: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        answer[_ID] = response.id
    for fields in (response.parameters, _values(response.outputs)):
        for key, value in fields.items():
            answer.setdefault(key, value)
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(outputs: Sequence[WireTensor]) -> Mapping[str, Any]:
    values = {tensor.name: json_from_tensor(tensor) for tensor in outputs}
    return {name: data[0] if len(data) == 1 else data for name, data in values.items()}


def _tensor(value: Any, spec: TensorSpec) -> WireTensor:
    items = flat(value) if isinstance(value, list) else [value]
    shape = _filled(len(items), spec)
    return WireTensor(spec.name, spec.dtype, shape, bytes_from_json(items, spec.dtype, shape, spec.name))


def _filled(count: int, spec: TensorSpec) -> tuple[int, ...]:
    """Spread elements over a shape: what the fixed sizes leave goes to the innermost open one, the others are 1."""
    for size in spec.shape:
        if size > 0:
            count, rest = divmod(count, size)
            if rest:
                count = -1
                break
    shape = list(spec.shape)
    for position in reversed(range(len(shape))):
        if shape[position] == -1:
            shape[position], count = count, 1
    if count != 1 or any(size < 0 for size in shape):
        raise InvalidInput(
            f"The schema can not convert input '{spec.name}' to tensor with proper shape {list(spec.shape)}; "
            "use infer, which says the shape."
        )
    return tuple(shape)
