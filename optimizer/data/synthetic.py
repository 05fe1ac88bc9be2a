"""Seeded feeds for a model without data: good enough to run it, never to calibrate or to judge it."""

from collections.abc import Sequence

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors, TensorSpec

_OPEN_LENGTH = 16
_OPEN_SIDE = 64


def synthetic_feeds(inputs: Sequence[TensorSpec], rows: int, batch_axis_open: bool, seed: int) -> Tensors:
    """Make one feed; a model without an open batch axis gets exactly its own shape, whatever `rows` says."""
    random = np.random.default_rng(seed)
    return {spec.name: _array(spec, _shape(spec, rows, batch_axis_open), random) for spec in inputs}


def _shape(spec: TensorSpec, rows: int, batch_axis_open: bool) -> tuple[int, ...]:
    """Open dimensions other than the batch get a plausible size: the side of a small image, or a short sequence."""
    open_size = _OPEN_SIDE if len(spec.shape) >= 4 else _OPEN_LENGTH
    shape = [open_size if size == -1 else size for size in spec.shape]
    if batch_axis_open:
        shape[0] = rows
    return tuple(shape)


def _array(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Numbers are normal; integers are 0 or 1, which any table of embeddings can look up; text is one digit."""
    if not spec.dtype.size_bytes:
        return random.integers(0, 10, shape).astype(str).astype(object)
    if spec.dtype.numpy.kind in "iub":
        return random.integers(0, 2, shape).astype(spec.dtype.numpy)
    return random.standard_normal(shape).astype(spec.dtype.numpy)
