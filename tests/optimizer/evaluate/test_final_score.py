import numpy as np

from enginehouse.dtype import DTYPES
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.final_score import score_test
from optimizer.evaluate.metrics import metric_from_name

Y = TensorSpec("y", DTYPES["FP32"], (-1, 2))


def test_both_engines_are_scored_on_the_same_rows() -> None:
    x = np.eye(2, dtype=np.float32)
    source = FakeEngine([Y], [Y], lambda feeds: {"y": feeds["x"]})
    inverted = FakeEngine([Y], [Y], lambda feeds: {"y": 1 - feeds["x"]})
    batches = [Batch({"x": x}, np.array([0, 1]), 2), Batch({"x": x}, np.array([0, 0]), 2)]
    score = score_test(source, inverted, batches, metric_from_name("top1", Y, True))
    assert score is not None
    assert (score.rows, score.source, score.chosen) == (4, 0.75, 0.25)


def test_no_rows_are_no_score() -> None:
    engine = FakeEngine([Y], [Y], lambda feeds: {"y": feeds["x"]})
    assert score_test(engine, engine, [], metric_from_name("top1", Y, True)) is None
