import numpy as np

from enginehouse.dtype import DTYPES
from enginehouse.tensor import TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.comparison import Comparison
from optimizer.evaluate.metrics import metric_from_name

SCORES = TensorSpec("y", DTYPES["FP32"], (-1, 2))
BATCH = Batch({}, np.array([0, 1]), 2)
RIGHT = {"y": np.array([[1.0, 0.0], [0.0, 1.0]])}


def test_batches_are_scored_as_they_pass() -> None:
    comparison = Comparison(metric_from_name("top1", SCORES, True), {"y": 1.0})
    comparison.add(BATCH, RIGHT, RIGHT)
    comparison.add(BATCH, RIGHT, {"y": RIGHT["y"][::-1]})
    assert [scores.tolist() for scores in comparison.scores] == [[1.0, 1.0], [0.0, 0.0]]
    assert comparison.distance.by_output == {"y": 1.0}
    assert comparison.worst.sample is not None
    assert comparison.worst.sample.row == 2


def test_what_cannot_be_compared_is_not_scored() -> None:
    comparison = Comparison(metric_from_name("top1", SCORES, True), {"y": 1.0})
    comparison.add(BATCH, RIGHT, {"y": np.full((2, 2), np.nan)})
    assert not comparison.is_comparable
    assert comparison.scores == []
    assert comparison.worst.sample is None


def test_without_a_metric_only_distances_are_kept() -> None:
    comparison = Comparison(None, {"y": 1.0})
    comparison.add(BATCH, RIGHT, {"y": RIGHT["y"] + 0.5})
    assert (comparison.scores, comparison.distance.largest) == ([], 0.5)
