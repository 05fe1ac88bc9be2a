import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.calibration import CalibrationTable, ReadFeeds, calibrate
from optimizer.quantize.calibration_state import Progress, load_progress, save_progress
from tests.optimizer.quantize.graphs import graph_of, node

TENSORS = ("x", "sum", "hidden", "scores")


def feeds(batches: int, rows: int = 8) -> Iterator[dict[str, Array]]:
    random = np.random.default_rng(0)
    for _ in range(batches):
        yield {"x": random.standard_normal((rows, 4)).astype(np.float32)}


def table(
    graph: Graph, workdir: Path, read: ReadFeeds, histograms: bool = False, state: Path | None = None
) -> CalibrationTable:
    return calibrate(graph, TENSORS, read, 4_000, workdir, histograms=histograms, state=state, threads=1)


def assert_equal(found: CalibrationTable, expected: CalibrationTable) -> None:
    assert found.ranges() == expected.ranges()
    assert (found.rows, found.has_converged) == (expected.rows, expected.has_converged)
    assert found.feeds_fingerprint == expected.feeds_fingerprint
    for name in TENSORS:
        np.testing.assert_array_equal(found.observations[name].counts, expected.observations[name].counts)


def test_ranges_are_those_of_all_rows_together(small_graph: Graph, tmp_path: Path) -> None:
    found = table(small_graph, tmp_path, lambda: feeds(5))
    x = np.concatenate([feed["x"] for feed in feeds(5)])
    assert (found.rows, found.rows_available, found.has_converged) == (40, 4_000, False)
    assert found.ranges()["x"] == pytest.approx((x.min(), x.max()))
    assert found.ranges()["hidden"][0] == 0.0
    assert found.ranges()["hidden"][1] == pytest.approx(found.ranges()["sum"][1])
    assert all(seen.counts is None for seen in found.observations.values())


def test_batches_and_single_rows_give_the_same_ranges(small_graph: Graph, tmp_path: Path) -> None:
    together = table(small_graph, tmp_path, lambda: feeds(1, rows=40)).ranges()
    alone = table(small_graph, tmp_path, lambda: ({"x": r[None]} for f in feeds(1, rows=40) for r in f["x"])).ranges()
    for name in TENSORS:
        assert alone[name] == pytest.approx(together[name], abs=1e-5)


def test_histograms_hold_every_value_of_few_rows(small_graph: Graph, tmp_path: Path) -> None:
    found = table(small_graph, tmp_path, lambda: feeds(5), histograms=True).observations["x"]
    x = np.concatenate([feed["x"] for feed in feeds(5)])
    expected, _ = np.histogram(x, bins=2048, range=(found.lowest, found.highest))
    assert found.counts is not None
    assert found.counts.sum() == x.size
    # Rounding to FP32 puts a value at the edge of a bin into the one or the other.
    assert int(np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max()) <= 2


def test_histograms_take_batches_from_the_beginning_to_the_end(small_graph: Graph, tmp_path: Path) -> None:
    def read() -> Iterator[Tensors]:
        return ({"x": np.full((8, 4), 1 + position, np.float32)} for position in range(100))

    counts = table(small_graph, tmp_path, read, histograms=True).observations["x"].counts
    assert counts is not None
    assert 200 * 4 <= counts.sum() <= 400 * 4
    assert counts[:512].sum() == pytest.approx(counts[-512:].sum(), rel=0.1)


def test_reading_ends_when_no_range_grows(small_graph: Graph, tmp_path: Path) -> None:
    found = table(small_graph, tmp_path, lambda: ({"x": np.eye(4, dtype=np.float32)} for _ in range(1000)))
    assert (found.rows, found.has_converged) == (512, True)


def test_reading_goes_on_while_a_range_grows(small_graph: Graph, tmp_path: Path) -> None:
    def read() -> Iterator[Tensors]:
        return ({"x": np.full((8, 4), min(position, 80), np.float32)} for position in range(500))

    found = table(small_graph, tmp_path, read)
    assert found.ranges()["x"] == (0.0, 80.0)
    assert (found.rows, found.has_converged) == (81 * 8 + 256, True)


def test_a_row_without_an_axis_of_rows_counts_once(tmp_path: Path) -> None:
    """Its first axis is longer than all the rows after which reading may end."""
    graph = graph_of([node("Relu", "x", "y")], {}, (600, 4))

    def read() -> Iterator[Tensors]:
        return ({"x": np.full((600, 4), max(1, position - 20), np.float32)} for position in range(40))

    found = calibrate(graph, ["x"], read, 40, tmp_path, histograms=True, threads=1, is_whole=True)
    assert (found.rows, found.has_converged, found.ranges()["x"]) == (40, False, (1.0, 19.0))
    assert found.observations["x"].counts is not None
    assert found.observations["x"].counts.sum() == 40 * 600 * 4


def test_growth_that_does_not_matter_does_not_count(small_graph: Graph, tmp_path: Path) -> None:
    def read() -> Iterator[Tensors]:
        return ({"x": np.array([[-1, 1 + position * 1e-6, 0, 0]] * 8, np.float32)} for position in range(200))

    assert table(small_graph, tmp_path, read).has_converged


def test_a_tensor_that_is_not_a_number_never_settles(small_graph: Graph, tmp_path: Path) -> None:
    found = table(small_graph, tmp_path, lambda: ({"x": np.full((8, 4), np.nan, np.float32)} for _ in range(200)), True)
    assert np.isnan(found.ranges()["x"]).all()
    assert (found.rows, found.has_converged) == (1600, False)


def test_memory_does_not_grow_with_the_rows(small_graph: Graph, tmp_path: Path) -> None:
    peaks = []
    for batches in (20, 2000):
        tracemalloc.start()
        table(small_graph, tmp_path, lambda batches=batches: feeds(batches), histograms=True)  # type: ignore[misc]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000, "the rows alone take 256 kB"


def test_fingerprints_tell_models_and_feeds_apart(small_graph: Graph, tmp_path: Path) -> None:
    first, again = (table(small_graph, tmp_path, lambda: feeds(2)) for _ in range(2))
    other = table(small_graph, tmp_path, lambda: feeds(3))
    assert first == again
    assert first.model_fingerprint == other.model_fingerprint == small_graph.fingerprint()
    assert first.feeds_fingerprint != other.feeds_fingerprint


def test_the_observed_graph_is_a_copy(small_graph: Graph, tmp_path: Path) -> None:
    before = small_graph.fingerprint()
    table(small_graph, tmp_path, lambda: feeds(1), histograms=True)
    assert small_graph.fingerprint() == before


def test_feeds_that_the_model_cannot_run_are_an_error(small_graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        table(small_graph, tmp_path, lambda: [{"x": np.zeros((1, 5), np.float32)}])


# Rows stay the same from one reading to the next; the process kills itself when it is given feed number `fatal`.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from optimizer.graph.graph import load_graph
from optimizer.quantize.calibration import calibrate

folder, fatal, given = Path(sys.argv[1]), int(sys.argv[2]), 0

def read():
    global given
    random = np.random.default_rng(0)
    for _ in range(20):
        if given == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        given += 1
        yield {"x": random.standard_normal((8, 4)).astype(np.float32)}

calibrate(load_graph(folder / "small.onnx"), ("x", "sum", "hidden", "scores"), read, 4000, folder,
          histograms=True, state=folder / "state", threads=1)
"""


@pytest.mark.parametrize(("fatal", "batches", "is_counting"), [(10, 8, False), (20 + 13, 12, True)])
def test_a_killed_calibration_goes_on_where_it_was(
    small_graph: Graph, tmp_path: Path, fatal: int, batches: int, is_counting: bool
) -> None:
    small_graph.save(tmp_path / "small.onnx")
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(fatal)]
    killed = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = saved(tmp_path / "state")
    assert (left.batches, left.is_counting) == (batches, is_counting)
    resumed = table(small_graph, tmp_path, lambda: feeds(20), histograms=True, state=tmp_path / "state")
    assert_equal(resumed, table(small_graph, tmp_path, lambda: feeds(20), histograms=True))
    left.lowest[0] = -99.0
    save_progress(left, tmp_path / "state")
    marked = table(small_graph, tmp_path, lambda: feeds(20), histograms=True, state=tmp_path / "state")
    assert marked.ranges()["x"][0] == -99.0, "it began anew"


def saved(path: Path) -> Progress:
    with np.load(path) as file:
        model = str(file["model"])
    progress = load_progress(path, model)
    assert progress is not None
    return progress


def finished_with_a_mark(graph: Graph, folder: Path, read: ReadFeeds) -> Path:
    """The state of a finished calibration, with a range that can only come from there."""
    state = folder / "state"
    table(graph, folder, read, state=state)
    progress = saved(state)
    progress.lowest[0] = -99.0
    save_progress(progress, state)
    return state


def test_what_was_known_is_not_computed_again(small_graph: Graph, tmp_path: Path) -> None:
    state = finished_with_a_mark(small_graph, tmp_path, lambda: feeds(6))
    assert table(small_graph, tmp_path, lambda: feeds(6), state=state).ranges()["x"][0] == -99.0


def test_the_ranges_of_one_calibration_serve_another_with_histograms(small_graph: Graph, tmp_path: Path) -> None:
    state = finished_with_a_mark(small_graph, tmp_path, lambda: feeds(6))
    found = table(small_graph, tmp_path, lambda: feeds(6), histograms=True, state=state).observations["x"]
    assert found.lowest == -99.0
    assert found.counts is not None
    assert found.counts.sum() == 6 * 8 * 4


OTHER_FEEDS: list[Callable[[], Iterator[Tensors]]] = [
    lambda: ({"x": feed["x"] + 1} for feed in feeds(6)),
    lambda: feeds(7),
    lambda: feeds(5),
    lambda: feeds(6, rows=7),
    lambda: iter([*feeds(5), {"x": np.zeros((8, 4), np.float32)}]),
]


@pytest.mark.parametrize("read", OTHER_FEEDS, ids=["other values", "more", "fewer", "other batches", "another end"])
def test_a_state_of_other_feeds_is_ignored(
    small_graph: Graph, tmp_path: Path, read: Callable[[], Iterator[Tensors]]
) -> None:
    state = finished_with_a_mark(small_graph, tmp_path, lambda: feeds(6))
    assert_equal(table(small_graph, tmp_path, read, state=state), table(small_graph, tmp_path, read))


def test_a_state_of_another_model_or_of_other_tensors_is_ignored(small_graph: Graph, tmp_path: Path) -> None:
    state = finished_with_a_mark(small_graph, tmp_path, lambda: feeds(6))
    model = small_graph.copy()
    model.graph.node[0].name = "another"
    assert table(Graph(model), tmp_path, lambda: feeds(6), state=state).ranges()["x"][0] > -99
    state = finished_with_a_mark(small_graph, tmp_path, lambda: feeds(6))
    swapped = calibrate(small_graph, TENSORS[::-1], lambda: feeds(6), 48, tmp_path, state=state, threads=1)
    assert swapped.ranges() == table(small_graph, tmp_path, lambda: feeds(6)).ranges()


def test_a_damaged_state_is_ignored(small_graph: Graph, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(b"PK\x03\x04 cut off")
    assert_equal(
        table(small_graph, tmp_path, lambda: feeds(6), state=state), table(small_graph, tmp_path, lambda: feeds(6))
    )
