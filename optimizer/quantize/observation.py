"""What was seen of one tensor while the calibration rows passed."""

from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array

BINS = 2048


@dataclass(frozen=True, slots=True)
class Observation:
    """One tensor.

    Attributes:
        lowest, highest: exact.
        counts: how many values fell into each of `BINS` equal parts of that range; None where none were counted.
    """

    lowest: float
    highest: float
    counts: Array | None = None

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        width = (self.highest - self.lowest) / BINS
        return np.asarray(self.lowest + width * (np.arange(BINS) + 0.5))
