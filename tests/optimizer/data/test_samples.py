from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from optimizer.data.dataset import DataSet
from optimizer.data.samples import calibration_split, sample_feeds
from optimizer.graph.graph import Graph


def data_with(graph: Graph, path: Path, **arrays: Array) -> DataSet:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return DataSet([path], graph.inputs, True, 0)


def test_rows_come_from_the_calibration_split_and_repeat(small_graph: Graph, tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays: dict[str, Array] = {"calibration/x": x, "validation/x": x + 100, "test/x": x + 200}
    data = data_with(small_graph, tmp_path / "a.npz", **arrays)
    feeds = sample_feeds(small_graph, data, 5, 0)
    np.testing.assert_array_equal(feeds["x"], x[[0, 1, 2, 0, 1]])


def test_training_rows_calibrate_where_there_is_no_split_for_it(small_graph: Graph, tmp_path: Path) -> None:
    x = np.ones((3, 4), np.float32)
    arrays: dict[str, Array] = {"train/x": x, "validation/x": x + 1}
    data = data_with(small_graph, tmp_path / "a.npz", **arrays)
    assert calibration_split(data) == "train"
    np.testing.assert_array_equal(sample_feeds(small_graph, data, 2, 0)["x"], x[:2])


def test_without_data_rows_are_synthetic(small_graph: Graph) -> None:
    assert sample_feeds(small_graph, None, 6, 0)["x"].shape == (6, 4)
