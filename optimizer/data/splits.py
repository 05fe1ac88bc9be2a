"""Split rows that came without splits: deterministic, in one stream, each label in the same mix everywhere."""

from collections.abc import Hashable, Sequence

import numpy as np

from enginehouse.dtype import Array

SPLITS = ("train", "calibration", "validation", "test")

# Nothing is trained here, so a quarter calibrates, half judges, and a quarter is kept for the one final score.
_SLOTS = ("calibration", "validation", "validation", "test")
SHARES = "25 % calibration, 50 % validation, 25 % test"


class Splitter:
    """Deals rows to splits in the order they come.

    Of every four rows of one label, one calibrates, two validate and one tests, in an order drawn from the seed.
    The only state is one short list per label, so any number of rows can pass.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._open_slots: dict[Hashable, list[str]] = {}

    def assign(self, labels: Array | None, rows: int) -> Array:
        """Name the split of each row; labels that are not classes count as one."""
        strata: Sequence[Hashable] = labels.tolist() if labels is not None and _are_classes(labels) else [None] * rows
        return np.array([self._next(stratum) for stratum in strata])

    def _next(self, stratum: Hashable) -> str:
        slots = self._open_slots.get(stratum)
        if not slots:
            slots = [str(slot) for slot in self._random.permutation(_SLOTS)]
            self._open_slots[stratum] = slots
        return slots.pop()


def _are_classes(labels: Array) -> bool:
    return labels.ndim == 1 and labels.dtype.kind in "iubSU"
