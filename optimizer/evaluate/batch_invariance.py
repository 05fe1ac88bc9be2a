"""A row alone must equal the row among others: the server puts strangers into one batch."""

from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.tensor import Tensors
from optimizer.evaluate.distance import absolute_difference, largest_value

# Sums in another order round differently, in the type that they are computed in. In INT8 such a rounding can move a
# value to the next of 256 steps. Dynamic INT8 has no allowance: there, company changes the scale.
ROUNDING = 1e-4
_ROUNDING = {"fp16": 1e-2, "bf16": 5e-2, "int8": 2e-2, "int4": 2e-2}

# Two scores nearer than this share of the largest are equal as far as the type can tell.
_TIE = {"fp16": 1e-3, "bf16": 8e-3}


@dataclass(frozen=True, slots=True)
class Invariance:
    """The largest difference that company made, and whether it is rounding only."""

    holds: bool
    difference: float


def check_batch_invariance(engine: Engine, feeds: Tensors, precision: str) -> Invariance:
    """Run the rows together and one by one.

    Each output may differ by rounding, a share of its largest value that depends on the precision. The highest class
    must be the same in each row, unless its best two scores are nearer than rounding in that type.
    """
    together = engine.run(feeds)
    rows = len(next(iter(feeds.values())))
    alone = [engine.run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(rows)]
    rounding, tie = _ROUNDING.get(precision, ROUNDING), _TIE.get(precision, ROUNDING)
    holds, largest = True, 0.0
    for name, expected in together.items():
        found = np.concatenate([outputs[name] for outputs in alone])
        difference = float(absolute_difference(expected, found).max(initial=0.0))
        largest = max(largest, difference)
        scale = largest_value(expected)
        holds &= difference <= rounding * scale and _same_classes(expected, found, tie * scale)
    return Invariance(holds, largest)


def _same_classes(expected: Array, found: Array, near: float) -> bool:
    if expected.ndim != 2 or expected.shape[1] < 2 or expected.dtype.kind not in "fV":
        return True
    scores = np.sort(expected.astype(np.float64), axis=1)
    is_clear = scores[:, -1] - scores[:, -2] > near
    return bool(np.array_equal(expected.argmax(axis=1)[is_clear], found.argmax(axis=1)[is_clear]))
