"""One candidate beside the original while the batches pass: how far its answers are off, and what they score."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.data.feeds import Batch
from optimizer.evaluate.distance import OutputDistance
from optimizer.evaluate.metrics import Metric
from optimizer.evaluate.worst_row import WorstRow


class Comparison:
    """One candidate while the batches pass.

    Args:
        metric: what scores its answers, if anything does.
        scales: the largest value of each output of the original.
    """

    def __init__(self, metric: Metric | None, scales: dict[str, float]) -> None:
        self.distance = OutputDistance()
        self.scores: list[Array] = []
        self.worst = WorstRow(scales)
        self._metric = metric

    def add(self, batch: Batch, source: Tensors, candidate: Tensors) -> None:
        self.distance.update(source, candidate)
        if self.is_comparable:
            self.worst.update(batch, source, candidate)
            if self._metric is not None:
                self.scores.append(self._metric.scores(candidate, source, batch))

    @property
    def is_comparable(self) -> bool:
        """Shapes are the original's, and what is finite there is finite here."""
        return bool(np.isfinite(self.distance.largest))
