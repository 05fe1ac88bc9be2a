"""Judge whether two runs gave the same outputs, up to the rounding that a rewrite may move."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors

# Largest difference, as a share of the largest finite number in the same output. A rewrite reorders sums; it never
# lowers a precision. Whole numbers, truth values and text must be equal.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
# An output that should be zero everywhere has no scale of its own.
_SMALLEST_SCALE = 1e-3


def difference(expected: Tensors, found: Tensors) -> str | None:
    """Describe the first output that differs; None if all agree. NaN agrees with NaN, infinity with its like."""
    for name, want in expected.items():
        if name not in found:
            return f"output '{name}' is missing"
        reason = _difference(np.asarray(want), np.asarray(found[name]))
        if reason is not None:
            return f"output '{name}' {reason}"
    return None


def _difference(want: Array, have: Array) -> str | None:
    if want.shape != have.shape:
        return f"has shape {list(have.shape)} instead of {list(want.shape)}"
    if want.dtype != have.dtype:
        return f"is {have.dtype} instead of {want.dtype}"
    if want.dtype.name not in TOLERANCES:
        return None if np.array_equal(want, have) else f"differs in {int((want != have).sum())} of {want.size} elements"
    wide_want, wide_have = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(wide_want)
    if not np.array_equal(wide_want[~finite], wide_have[~finite], equal_nan=True):
        return "differs where it is not finite"
    if not np.isfinite(wide_have[finite]).all():
        return "is not finite where it should be"
    return _far(wide_want[finite], wide_have[finite], TOLERANCES[want.dtype.name])


def _far(want: Array, have: Array, tolerance: float) -> str | None:
    if not want.size:
        return None
    scale = max(float(np.abs(want).max()), _SMALLEST_SCALE)
    largest = float(np.abs(want - have).max())
    return None if largest <= tolerance * scale else f"differs by {largest:.3g}, more than {tolerance:g} of {scale:.3g}"
