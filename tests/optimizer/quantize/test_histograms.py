from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize import histograms
from optimizer.quantize.histograms import HistogramCounter
from optimizer.quantize.observation import BINS
from tests.optimizer.quantize.graphs import chain, graph_of, images, node

IDENTITY = ("x", "y")


def identity() -> Graph:
    return graph_of([node("Abs", "x", "y")], {}, ("n", 4))


def counted(
    graph: Graph, tensors: Sequence[str], bounds: Sequence[tuple[float, float]], feeds: Sequence[Tensors], folder: Path
) -> Array:
    low, high = np.array(bounds, np.float64).T
    counts = np.zeros((len(tensors), BINS), np.int64)
    counter = HistogramCounter(graph, tensors, low, high, folder, 1)
    for feed in feeds:
        counter.add(feed, counts)
    counter.close()
    return counts


def test_each_value_counts_in_its_bin(tmp_path: Path) -> None:
    feed = {"x": np.array([[-1.0, -0.5, 0.0, 0.999]], np.float32)}
    counts = counted(identity(), IDENTITY, [(-1, 1), (0, 1)], [feed, feed], tmp_path)
    assert np.flatnonzero(counts[0]).tolist() == [0, BINS // 4, BINS // 2, BINS - 2]
    assert np.flatnonzero(counts[1]).tolist() == [0, BINS // 2, BINS - 3, BINS - 1]
    assert set(counts[counts > 0].tolist()) == {2}


def test_values_beyond_the_range_count_at_its_ends(tmp_path: Path) -> None:
    feed = {"x": np.array([[-7.0, 9.0, np.inf, np.nan]], np.float32)}
    counts = counted(identity(), ["x"], [(0, 1)], [feed], tmp_path)
    assert (counts[0, 0], counts[0, -1], counts.sum()) == (2, 2, 4)


@pytest.mark.parametrize("bounds", [(3.0, 3.0), (np.nan, np.nan), (0.0, np.inf)])
def test_a_range_without_width_counts_in_the_first_bin(tmp_path: Path, bounds: tuple[float, float]) -> None:
    counts = counted(identity(), ["x"], [bounds], [{"x": np.full((2, 4), 3.0, np.float32)}], tmp_path)
    assert (counts[0, 0], counts.sum()) == (8, 8)


def test_groups_and_parts_count_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, bounds = ("x", "c", "r", "p", "y"), [(-3.0, 3.0)] * 5
    graph = chain()
    together = counted(graph, names, bounds, [images(rows=5)], tmp_path)
    monkeypatch.setattr(histograms, "_FETCH_BYTES", 4_500)
    fetched: list[int] = []
    run = OnnxRuntimeEngine.run

    def noted(self: OnnxRuntimeEngine, feeds: Tensors) -> Tensors:
        outputs = run(self, feeds)
        fetched.append(sum(array.nbytes for array in outputs.values() if array.dtype == np.float32))
        return outputs

    monkeypatch.setattr(OnnxRuntimeEngine, "run", noted)
    apart = counted(graph, names, bounds, [images(rows=5)], tmp_path)
    # Batches of other sizes are computed in another order, which moves a value by its last bit.
    assert np.abs(np.cumsum(apart, axis=1) - np.cumsum(together, axis=1)).max() <= 3
    assert len(fetched) > 5
    assert max(fetched) <= 4_500


def test_feeds_stay_as_they_are(tmp_path: Path) -> None:
    feed = {"x": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}
    counted(identity(), IDENTITY, [(-1, 1), (0, 1)], [feed], tmp_path)
    np.testing.assert_array_equal(feed["x"], [[1.0, 2.0, 3.0, 4.0]])
