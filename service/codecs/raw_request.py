"""The raw-binary request: a body that is nothing but the one tensor of a model with one input."""

import math

from enginehouse.errors import InvalidInput
from enginehouse.model_config import input_specs
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.tensor import TensorSpec
from service.request import InferRequest, WireTensor


def decode_raw_request(body: bytes, config: ModelConfig, model_name: str, model_version: str) -> InferRequest:
    """Take the name, the type and the shape from the model's configuration: one row, and an open dimension by size.

    Raises:
        InvalidInput: what the configuration says does not tell the tensor.
    """
    specs = input_specs(config)
    if len(specs) != 1:
        raise InvalidInput(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} inputs in "
            f"'{config.name}' model configuration."
        )
    (spec,) = specs
    is_batched = config.max_batch_size > 0
    dims = list(spec.shape[1:] if is_batched else spec.shape)
    data = body
    if spec.dtype.size_bytes:
        dims = _closed(dims, len(body), spec)
    elif -1 in dims or math.prod(dims) != 1:
        raise InvalidInput(
            f"For BYTE datatype raw input, the model must have input shape [1]; input '{spec.name}' has {dims}."
        )
    else:
        data = len(body).to_bytes(4, "little") + body
    shape = (1, *dims) if is_batched else tuple(dims)
    return InferRequest(model_name, model_version, (WireTensor(spec.name, spec.dtype, shape, data),))


def _closed(dims: list[int], byte_count: int, spec: TensorSpec) -> list[int]:
    """The one open dimension is whatever the bytes fill; more bytes or fewer are found on admission."""
    if dims.count(-1) > 1:
        raise InvalidInput(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more than one "
            "variable-sized dimension; send it with a JSON header that says its shape."
        )
    row_bytes = spec.dtype.size_bytes * math.prod(size for size in dims if size != -1)
    return [byte_count // max(1, row_bytes) if size == -1 else size for size in dims]
