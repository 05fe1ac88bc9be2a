"""The judged row that a candidate answers least like the original: the one to look at first."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.evidence import WorstSample
from enginehouse.tensor import Tensors
from optimizer.data.feeds import Batch
from optimizer.evaluate.distance import absolute_difference

_SHOWN_VALUES = 32


class WorstRow:
    """Find it in one stream.

    Args:
        scales: the largest value of each output of the original, so that outputs of different sizes compare.
    """

    def __init__(self, scales: dict[str, float]) -> None:
        self.sample: WorstSample | None = None
        self._scales = scales
        self._share = 0.0
        self._rows_before = 0

    def update(self, batch: Batch, source: Tensors, candidate: Tensors) -> None:
        """Take in one batch; text, and outputs that do not go by rows, are left out."""
        for name, expected in source.items():
            wanted, found = _by_row(expected, batch), _by_row(candidate[name], batch)
            if wanted is not None and found is not None and wanted.shape == found.shape:
                self._look(name, wanted, found)
        self._rows_before += batch.rows

    def _look(self, name: str, wanted: Array, found: Array) -> None:
        differences = absolute_difference(wanted, found).max(axis=1, initial=0.0)
        row = int(differences.argmax())
        share = float(differences[row]) / (self._scales[name] or 1.0)
        if share <= self._share:
            return
        self._share = share
        self.sample = WorstSample(
            row=self._rows_before + row,
            output=name,
            difference=float(differences[row]),
            source=_first_values(wanted[row]),
            built=_first_values(found[row]),
        )


def _by_row(output: Array, batch: Batch) -> Array | None:
    if output.dtype.kind in "OSU":
        return None
    if batch.is_whole:
        return output.reshape(1, -1)
    return output.reshape(batch.rows, -1) if output.ndim and len(output) == batch.rows else None


def _first_values(row: Array) -> tuple[float, ...]:
    return tuple(row[:_SHOWN_VALUES].astype(np.float64).tolist())
