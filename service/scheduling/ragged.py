"""Inputs that describe a batch of requests of unequal shapes, computed from these shapes (`batch_input`)."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from enginehouse.dtype import Array
from enginehouse.proto.model_config_pb2 import BatchInput
from enginehouse.ragged_config import Derived
from enginehouse.tensor import Tensors
from service.request import InferRequest

_Shapes = Sequence[tuple[int, ...]]


class BatchInputs:
    """Makes all inputs that describe one batch."""

    def __init__(self, rules: Sequence[Derived]) -> None:
        self._rules = tuple(rules)

    def __call__(self, requests: Sequence[InferRequest]) -> Tensors:
        feeds: dict[str, Array] = {}
        for rule in self._rules:
            shapes = [tensor.shape for request in requests for tensor in request.inputs if tensor.name == rule.source]
            array = np.asarray(_VALUES[rule.kind](shapes)).astype(rule.dtype.numpy)
            feeds |= dict.fromkeys(rule.targets, array)
        return feeds


def _counts(shapes: _Shapes) -> list[int]:
    """Elements of each request, all its rows together."""
    return [math.prod(shape) for shape in shapes]


def _item_shapes(shapes: _Shapes) -> Array:
    """The shape of each row, without the batch dimension."""
    return np.array([shape[1:] for shape in shapes for _ in range(shape[0])], np.int64).reshape(-1, len(shapes[0]) - 1)


_VALUES: dict[BatchInput.Kind, Callable[[_Shapes], Array | list[int]]] = {
    BatchInput.BATCH_ELEMENT_COUNT: _counts,
    BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT: lambda shapes: list(accumulate(_counts(shapes))),
    BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO: lambda shapes: [0, *accumulate(_counts(shapes))],
    BatchInput.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE: lambda shapes: np.zeros(max(_counts(shapes))),
    BatchInput.BATCH_ITEM_SHAPE: _item_shapes,
    BatchInput.BATCH_ITEM_SHAPE_FLATTEN: lambda shapes: _item_shapes(shapes).ravel(),
}
