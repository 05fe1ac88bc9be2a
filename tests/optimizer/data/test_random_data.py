from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.tensor import TensorSpec
from optimizer.data.dataset import DataSet
from optimizer.data.lint import lint
from optimizer.data.random_data import random_data

IMAGE = TensorSpec("image", DTYPES["FP32"], (-1, 3, 8, 8))
MASK = TensorSpec("mask", DTYPES["INT64"], (-1, 4))
SPLITS = ("calibration", "validation", "test")


def rows_of(data: DataSet, split: str, name: str) -> Array:
    return np.concatenate([batch.feeds[name] for batch in data.batches(split, 32)])


def test_each_split_has_rows_that_fit_the_model(tmp_path: Path) -> None:
    data = random_data([IMAGE, MASK], True, 0, tmp_path)
    assert data.rows == {"train": 0, "calibration": 128, "validation": 128, "test": 64}
    assert not data.has_labels
    assert rows_of(data, "test", "image").shape == (64, 3, 8, 8)
    assert set(rows_of(data, "test", "mask").ravel().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("shape", "is_open"), [((-1, 3, 8, 8), True), ((3, 8, 8), False)], ids=["rows", "no axis of rows"]
)
def test_no_row_is_there_twice(tmp_path: Path, shape: tuple[int, ...], is_open: bool) -> None:
    data = random_data([TensorSpec("x", DTYPES["FP32"], shape)], is_open, 0, tmp_path)
    rows = [batch.feeds["x"].tobytes() for split in SPLITS for batch in data.batches(split, 1)]
    assert len(rows) == len(set(rows)) == 320


def test_a_seed_gives_its_own_rows_every_time(tmp_path: Path) -> None:
    found = []
    for position, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(position)
        folder.mkdir()
        found.append(rows_of(random_data([IMAGE], True, seed, folder), "calibration", "image"))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_text_is_made_up_too(tmp_path: Path) -> None:
    data = random_data([TensorSpec("text", DTYPES["BYTES"], (-1, 2))], True, 0, tmp_path)
    assert all(str(text).isdigit() for text in rows_of(data, "calibration", "text").ravel())


def test_made_up_rows_do_not_pass_for_real_ones(tmp_path: Path) -> None:
    (warning,) = lint(random_data([IMAGE], True, 0, tmp_path), "calibration", None)
    assert "looks like random noise" in warning
