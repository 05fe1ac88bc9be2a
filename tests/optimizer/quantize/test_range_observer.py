from pathlib import Path

import numpy as np
import pytest

from enginehouse.errors import EngineFailed
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize import range_observer
from optimizer.quantize.range_observer import RangeObserver
from tests.optimizer.quantize.graphs import answers, chain, images, ranges_of

TENSORS = ("x", "c", "r", "p", "y")
CHAIN = chain()


def observed(graph: Graph, feed: Tensors, folder: Path) -> dict[str, tuple[float, float]]:
    observer = RangeObserver(graph, TENSORS, folder, 1)
    try:
        lowest, highest = observer.observe(feed)
    finally:
        observer.close()
    return {name: (low, high) for name, low, high in zip(TENSORS, lowest.tolist(), highest.tolist(), strict=True)}


def test_ranges_are_those_of_the_tensors(tmp_path: Path) -> None:
    found, expected = observed(CHAIN, images(), tmp_path), ranges_of(CHAIN, TENSORS, images())
    for name in TENSORS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_rows_that_do_not_fit_at_once_go_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = observed(CHAIN, images(rows=7), tmp_path)
    monkeypatch.setattr(range_observer, "_KEPT_BYTES", 15_000)
    ran: list[int] = []
    run = OnnxRuntimeEngine.run

    def counted(self: OnnxRuntimeEngine, feeds: Tensors) -> Tensors:
        ran.append(len(feeds["x"]))
        return run(self, feeds)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", counted)
    apart = observed(CHAIN, images(rows=7), tmp_path)
    assert ran == [1, 2, 2, 2, 1], "one row to find the sizes, then two of 6.7 kB at a time"
    for name in TENSORS:
        assert apart[name] == pytest.approx(together[name], rel=1e-5)


def test_infinity_is_the_end_of_a_range(tmp_path: Path) -> None:
    feed = images(rows=3)
    feed["x"][1, 0, 3, 3] = -np.inf
    low, high = observed(CHAIN, feed, tmp_path)["x"]
    assert low == -np.inf
    assert high == feed["x"].max()


def test_the_graph_still_answers_as_it_did(tmp_path: Path) -> None:
    before = answers(CHAIN, images())
    observed(CHAIN, images(), tmp_path)
    np.testing.assert_array_equal(answers(CHAIN, images())["y"], before["y"])


def test_a_closed_observer_answers_nothing(tmp_path: Path) -> None:
    observer = RangeObserver(CHAIN, TENSORS, tmp_path, 1)
    observer.close()
    with pytest.raises(EngineFailed, match="closed"):
        observer.observe(images())
