"""How far a candidate's outputs are from the original's, over all outputs of all batches."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors


class OutputDistance:
    """Running largest and mean absolute difference; text counts 0 where it is equal and 1 where it is not.

    Two NaN, and two equal infinities, do not differ; anything else that is not finite differs by infinity.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.scale = 0.0
        self._sum = 0.0
        self._count = 0

    def update(self, source: Tensors, candidate: Tensors) -> None:
        for name, expected in source.items():
            difference = absolute_difference(expected, candidate[name])
            if difference.size:
                self.largest = max(self.largest, float(difference.max()))
                self._sum += float(difference.sum())
                self._count += difference.size
            self.scale = max(self.scale, largest_value(expected))

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else 0.0


def absolute_difference(expected: Array, found: Array) -> Array:
    """Compare element by element; arrays of different shapes differ by infinity."""
    if expected.shape != found.shape:
        return np.array([np.inf])
    if expected.dtype.kind in "OSU":
        return np.asarray(expected != found).astype(np.float64)
    a, b = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def largest_value(array: Array) -> float:
    """The largest finite magnitude, the scale that differences are judged by; 1 for text."""
    if array.dtype.kind in "OSU":
        return 1.0
    values = np.abs(array.astype(np.float64))
    values = values[np.isfinite(values)]
    return float(values.max()) if values.size else 0.0
