from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec
from optimizer.commands.rows import open_rows

SCORES = [TensorSpec("y", DTYPES["FP32"], (-1, 3))]


def engine(batch: int = -1) -> FakeEngine:
    return FakeEngine([TensorSpec("x", DTYPES["FP32"], (batch, 4))], SCORES, dict)


def test_without_data_seeded_rows_are_run(tmp_path: Path) -> None:
    rows = open_rows(None, [engine()], 0, tmp_path)
    (batch,) = rows.batches()
    assert (batch.rows, batch.feeds["x"].shape, batch.labels) == (32, (32, 4), None)
    (again,) = rows.batches()
    assert np.array_equal(batch.feeds["x"], again.feeds["x"])
    assert rows.feeds(8)["x"].shape == (8, 4)
    assert rows.metric(None, SCORES) is None
    assert str(rows) == "seeded synthetic rows"
    with pytest.raises(InvalidInput, match="metric top1 needs labels, and no data was given"):
        rows.metric("top1", SCORES)


def test_models_are_compared_on_the_validation_rows(tmp_path: Path, small_data: Path) -> None:
    rows = open_rows(str(small_data), [engine(), engine()], 0, tmp_path)
    assert sum(batch.rows for batch in rows.batches()) == 60
    assert rows.feeds(100)["x"].shape == (100, 4)  # rows repeat where there are fewer
    metric = rows.metric(None, SCORES)
    assert metric is not None
    assert metric.name == "top1"
    assert str(rows) == "60 validation rows"


def test_data_without_validation_rows_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", **{"calibration/x": np.zeros((3, 4), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="has no validation rows"):
        open_rows(str(tmp_path / "rows.npz"), [engine()], 0, tmp_path)


def test_a_model_without_an_open_batch_axis_runs_as_it_is(tmp_path: Path) -> None:
    rows = open_rows(None, [engine(), engine(batch=2)], 0, tmp_path)
    assert rows.batch_sizes((1, 8)) == (1,)
    assert open_rows(None, [engine()], 0, tmp_path).batch_sizes((1, 8)) == (1, 8)
    fixed = open_rows(None, [engine(batch=2)], 0, tmp_path)
    (batch,) = fixed.batches()
    assert (batch.feeds["x"].shape, batch.is_whole) == ((2, 4), True)
