"""How far a candidate's outputs are from the original's, over all outputs of all batches."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors


class OutputDistance:
    """Running largest and mean absolute difference; text counts 0 where it is equal and 1 where it is not.

    Two NaN, and two equal infinities, do not differ; anything else that is not finite differs by infinity.

    Attributes:
        by_output: the largest difference of each output.
        scale: the largest finite magnitude of the original's outputs.
    """

    def __init__(self) -> None:
        self.by_output: dict[str, float] = {}
        self.scale = 0.0
        self._sum = 0.0
        self._count = 0

    def update(self, source: Tensors, candidate: Tensors) -> None:
        for name, expected in source.items():
            difference = absolute_difference(expected, candidate[name])
            if difference.size:
                self.by_output[name] = max(self.by_output.get(name, 0.0), float(difference.max()))
                self._sum += float(difference.sum())
                self._count += difference.size
            self.scale = max(self.scale, largest_value(expected))

    @property
    def largest(self) -> float:
        return max(self.by_output.values(), default=0.0)

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else 0.0


class SquaredError:
    """Running squared error of the outputs over their squared length, output by output.

    Only what is finite in the original counts; of whole numbers and text the share that differs.
    """

    def __init__(self) -> None:
        self._error: dict[str, float] = {}
        self._length: dict[str, float] = {}

    def update(self, source: Tensors, candidate: Tensors) -> None:
        for name, expected in source.items():
            error, length = _squares(expected, candidate[name])
            self._error[name] = self._error.get(name, 0.0) + error
            self._length[name] = self._length.get(name, 0.0) + length

    @property
    def mean(self) -> float:
        """Over the outputs, so that one of large numbers does not hide the others; infinite where one is not finite."""
        shares = [_share(error, self._length[name]) for name, error in self._error.items()]
        return float(np.mean(shares)) if shares else 0.0


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


def _squares(expected: Array, found: Array) -> tuple[float, float]:
    if expected.shape != found.shape:
        return np.inf, 1.0
    if expected.dtype.kind not in "fV":
        return float(np.count_nonzero(expected != found)), float(expected.size)
    want, have = expected.astype(np.float64), found.astype(np.float64)
    is_finite = np.isfinite(want)
    error = float(np.sum((have[is_finite] - want[is_finite]) ** 2))
    return error if np.isfinite(error) else np.inf, float(np.sum(want[is_finite] ** 2))


def _share(error: float, length: float) -> float:
    if error == 0.0:
        return 0.0
    return error / length if length else np.inf
