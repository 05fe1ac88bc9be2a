from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.segments import Segments

Answers = Callable[[Graph, Sequence[Tensors]], list[Tensors]]
RANDOM = np.random.default_rng(0)
FEEDS = [{"x": RANDOM.standard_normal((rows, 2)).astype(np.float32)} for rows in (3, 1, 4)]
TEXT = "(float[n, 2] x) => (float[n, 2] y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) y = Add(c, a) }"
W, V = RANDOM.standard_normal((2, 2)).astype(np.float32), RANDOM.standard_normal((2, 2)).astype(np.float32)


@pytest.fixture
def graph(plant: Callable[..., Graph]) -> Graph:
    return plant(TEXT, {"w": W, "v": V})


def test_the_values_are_those_of_the_whole_graph(graph: Graph, answers: Answers, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["a"], ["c"], ["y"]], tmp_path)
    for _ in range(3):
        segments.advance()
    for found, expected in zip(segments.batches("y"), answers(graph, FEEDS), strict=True):
        np.testing.assert_array_equal(found, expected["y"])


def test_what_is_subtracted_holds_for_everything_behind(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["a"], ["y"]], tmp_path)
    segments.advance()
    shift = np.array([1.0, -2.0], np.float32)
    segments.subtract("a", shift)
    segments.advance()
    for feed, found in zip(FEEDS, segments.batches("y"), strict=True):
        a = feed["x"] @ W - shift
        np.testing.assert_allclose(found, np.maximum(a, 0) @ V + a, rtol=1e-5)


def test_weights_can_be_replaced_behind_the_stop(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["b"], ["y"]], tmp_path)
    segments.advance()
    segments.replace_weight("w", np.zeros((2, 2), np.float32))
    segments.replace_weight("v", np.eye(2, dtype=np.float32))
    segments.advance()
    for feed, found in zip(FEEDS, segments.batches("y"), strict=True):
        a = feed["x"] @ W
        np.testing.assert_allclose(found, np.maximum(a, 0) + a, rtol=1e-5), "w was read before the stop"


def test_files_of_values_that_nobody_needs_any_more_are_gone(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["a"], ["c"], ["y"]], tmp_path)
    kept = []
    for _ in range(3):
        segments.advance()
        kept.append(len(list(tmp_path.iterdir())))
    assert kept == [3, 6, 3]


def test_a_stop_that_an_earlier_segment_has_passed_runs_nothing(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["c"], ["a"]], tmp_path)
    segments.advance()
    segments.advance()
    for feed, found in zip(FEEDS, segments.batches("a"), strict=True):
        np.testing.assert_allclose(found, feed["x"] @ W, rtol=1e-5)


def test_an_input_can_be_a_stop(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, FEEDS, [["x"], ["y"]], tmp_path)
    segments.advance()
    for feed, found in zip(FEEDS, segments.batches("x"), strict=True):
        np.testing.assert_array_equal(found, feed["x"])


def test_other_types_wait_on_disk_as_they_are(plant: Callable[..., Graph], tmp_path: Path) -> None:
    halves = "h = Cast<to = 16>(x) f = Cast<to = 1>(h)"
    text = f"(float[n, 2] x) => (int64[n] y) {{ {halves} y = ArgMax<axis = 1, keepdims = 0>(f) }}"
    segments = Segments(plant(text, {}), FEEDS, [["h"], ["y"]], tmp_path)
    segments.advance()
    assert next(segments.batches("h")).dtype == ml_dtypes.bfloat16
    segments.advance()
    for feed, found in zip(FEEDS, segments.batches("y"), strict=True):
        np.testing.assert_array_equal(found, feed["x"].argmax(axis=1))


def test_a_graph_that_cannot_run_says_so(graph: Graph, tmp_path: Path) -> None:
    segments = Segments(graph, [{"x": np.ones((2, 3), np.float32)}], [["y"]], tmp_path)
    with pytest.raises(EngineFailed):
        segments.advance()
