import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed
from optimizer.graph.graph import Graph
from optimizer.quantize.calibration import CalibrationTable, calibrate

TENSORS = ("x", "sum", "hidden", "scores")


def feeds(batches: int, rows: int = 8) -> Iterator[dict[str, Array]]:
    random = np.random.default_rng(0)
    for _ in range(batches):
        yield {"x": random.standard_normal((rows, 4)).astype(np.float32)}


def table(graph: Graph, workdir: Path, given: Iterator[dict[str, Array]]) -> CalibrationTable:
    return calibrate(graph, TENSORS, given, workdir, threads=1)


def test_ranges_are_those_of_all_rows_together(small_graph: Graph, tmp_path: Path) -> None:
    found = table(small_graph, tmp_path, feeds(5))
    x = np.concatenate([feed["x"] for feed in feeds(5)])
    assert found.rows == 40
    assert found.ranges["x"] == pytest.approx((x.min(), x.max()))
    assert found.ranges["hidden"][0] == 0.0
    assert found.ranges["hidden"][1] == pytest.approx(found.ranges["sum"][1])


def test_batches_and_single_rows_give_the_same_ranges(small_graph: Graph, tmp_path: Path) -> None:
    together = table(small_graph, tmp_path, feeds(1, rows=40)).ranges
    one_by_one = ({"x": row[None]} for feed in feeds(1, rows=40) for row in feed["x"])
    alone = table(small_graph, tmp_path, one_by_one).ranges
    for name in TENSORS:
        assert alone[name] == pytest.approx(together[name], abs=1e-5)


def test_memory_does_not_grow_with_the_rows(small_graph: Graph, tmp_path: Path) -> None:
    peaks = []
    for batches in (20, 2000):
        tracemalloc.start()
        table(small_graph, tmp_path, feeds(batches))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000, "the rows alone take 256 kB"


def test_fingerprints_tell_models_and_feeds_apart(small_graph: Graph, tmp_path: Path) -> None:
    first, again = table(small_graph, tmp_path, feeds(2)), table(small_graph, tmp_path, feeds(2))
    other = table(small_graph, tmp_path, feeds(3))
    assert first == again
    assert first.model_fingerprint == other.model_fingerprint == small_graph.fingerprint()
    assert first.feeds_fingerprint != other.feeds_fingerprint


def test_the_observed_graph_is_a_copy(small_graph: Graph, tmp_path: Path) -> None:
    before = small_graph.fingerprint()
    table(small_graph, tmp_path, feeds(1))
    assert small_graph.fingerprint() == before


def test_feeds_that_the_model_cannot_run_are_an_error(small_graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        table(small_graph, tmp_path, iter([{"x": np.zeros((1, 5), np.float32)}]))
