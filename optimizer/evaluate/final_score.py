"""The test split: scored once, after the choice, so that no choice was made on it."""

from collections.abc import Iterable

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.evidence import TestScore
from optimizer.data.feeds import Batch
from optimizer.evaluate.metrics import Metric


def score_test(source: Engine, chosen: Engine, batches: Iterable[Batch], metric: Metric) -> TestScore | None:
    """Score both engines on the same rows; None where there are none."""
    source_scores: list[Array] = []
    chosen_scores: list[Array] = []
    for batch in batches:
        expected = source.run(batch.feeds)
        source_scores.append(metric.scores(expected, expected, batch))
        chosen_scores.append(metric.scores(chosen.run(batch.feeds), expected, batch))
    if not source_scores:
        return None
    before, after = np.concatenate(source_scores), np.concatenate(chosen_scores)
    return TestScore(metric=metric.name, rows=len(before), source=metric.total(before), chosen=metric.total(after))
