from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize import calibrators
from optimizer.quantize.calibration import CalibrationTable, calibrate
from optimizer.quantize.calibrators import CALIBRATORS, ChosenRange, choose_ranges, range_of
from optimizer.quantize.observation import BINS, Observation
from optimizer.quantize.switched_graph import SwitchedGraph
from optimizer.trial import Calibrator
from tests.optimizer.quantize.graphs import graph_of, node

NORMAL = np.random.default_rng(0).standard_normal(100_000)
SHRINKING: tuple[Calibrator, ...] = ("percentile", "mse", "entropy")


def observed(values: Array) -> Observation:
    low, high = float(values.min()), float(values.max())
    return Observation(low, high, np.histogram(values, BINS, (low, high))[0])


def test_minmax_takes_all_that_was_seen() -> None:
    assert range_of(Observation(-2.0, 5.0), "minmax") == (-2.0, 5.0)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("offset", [10.0, -10.0])
def test_a_range_always_holds_zero(calibrator: Calibrator, symmetric: bool, offset: float) -> None:
    low, high = range_of(observed(NORMAL + offset), calibrator, symmetric=symmetric)
    assert low <= 0 <= high
    assert not symmetric or low == -high


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_never_exceeds_what_was_seen(calibrator: Calibrator, symmetric: bool) -> None:
    found = observed(NORMAL)
    low, high = range_of(found, calibrator, symmetric=symmetric)
    reach = max(-found.lowest, found.highest)
    assert -reach <= low <= -3
    assert 3 <= high <= reach


def test_a_percentile_leaves_one_value_in_ten_thousand_out() -> None:
    low, high = range_of(observed(NORMAL), "percentile")
    outside = int(((low > NORMAL) | (high < NORMAL)).sum())
    assert 4 <= outside <= 12


@pytest.mark.parametrize("calibrator", SHRINKING)
def test_a_value_far_outside_is_not_paid_for(calibrator: Calibrator) -> None:
    values = observed(np.append(NORMAL, 50.0))
    assert range_of(values, "minmax")[1] == 50.0
    assert range_of(values, calibrator)[1] < 46.0


@pytest.mark.parametrize("calibrator", SHRINKING)
def test_without_counts_all_that_was_seen_is_taken(calibrator: Calibrator) -> None:
    assert range_of(Observation(-2.0, 5.0), calibrator) == (-2.0, 5.0)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (3.0, 3.0), (0.0, np.inf)])
def test_a_tensor_of_one_value_or_without_end_is_taken_as_it_is(
    calibrator: Calibrator, low: float, high: float
) -> None:
    assert range_of(Observation(low, high, np.eye(1, BINS, dtype=np.int64)[0]), calibrator) == (0.0, high)


def test_fewer_levels_clip_more() -> None:
    assert range_of(observed(NORMAL), "mse", levels=16)[1] < range_of(observed(NORMAL), "mse")[1] - 0.5


# --- for each tensor the one that harms the outputs least ---

WIDTH = 8


def net(trusted: bool) -> Graph:
    """One hidden value in thousands is huge: `trusted` tells whether the output depends on it or ignores it."""
    first, second = np.eye(WIDTH), np.eye(WIDTH)
    second[0, 0] = 1.0 if trusted else 0.0
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")]
    return graph_of(nodes, {"w": first, "v": second}, ("n", WIDTH))


def feeds() -> list[Tensors]:
    """Column 0 is nearly always 0, and rarely 100."""
    x = np.abs(np.random.default_rng(1).standard_normal((512, WIDTH))).astype(np.float32)
    x[:, 0] = 0.0
    x[5::256, 0] = 100.0
    return [{"x": x[start : start + 64]} for start in range(0, 512, 64)]


def observed_table(graph: Graph, folder: Path) -> CalibrationTable:
    return calibrate(graph, ["h", "r"], feeds, 512, folder, histograms=True, threads=1)


def test_what_the_outputs_ignore_is_clipped(tmp_path: Path) -> None:
    graph = net(trusted=False)
    chosen = choose_ranges(graph, observed_table(graph, tmp_path), "per_tensor", False, feeds())
    assert chosen["r"].calibrator in SHRINKING
    assert chosen["r"].high < 60


def test_what_the_outputs_need_is_kept_whole(tmp_path: Path) -> None:
    graph = net(trusted=True)
    chosen = choose_ranges(graph, observed_table(graph, tmp_path), "per_tensor", False, feeds())
    assert chosen["r"] == ChosenRange(0.0, 100.0, "minmax", chosen["r"].error)


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_other_calibrator_would_have_done_clearly_better(tmp_path: Path, symmetric: bool) -> None:
    graph = net(trusted=False)
    table = observed_table(graph, tmp_path)
    chosen = choose_ranges(graph, table, "per_tensor", symmetric, feeds())
    switched = SwitchedGraph(graph, ["h", "r"], feeds()[:4], symmetric)
    for name, found in chosen.items():
        assert found.error == switched.error(name, (found.low, found.high))
        for calibrator in CALIBRATORS:
            bounds = range_of(table.observations[name], calibrator, symmetric=symmetric)
            assert found.error is not None
            assert found.error <= 1.1 * switched.error(name, bounds)
    switched.close()


def test_ties_go_to_all_that_was_seen(tmp_path: Path) -> None:
    """An output that is rounded to nothing is the same with any range."""
    graph = graph_of([node("Relu", "x", "r"), node("Mul", "r zero", "y")], {"zero": np.zeros(WIDTH)}, ("n", WIDTH))
    table = calibrate(graph, ["r"], feeds, 512, tmp_path, histograms=True, threads=1)
    assert choose_ranges(graph, table, "per_tensor", False, feeds())["r"] == ChosenRange(0.0, 100.0, "minmax", 0.0)


def test_of_nearly_equal_ranges_one_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spread values leave nothing to clip: every calibrator says the same, give or take."""
    x = np.random.default_rng(0).uniform(-1, 1, (512, WIDTH)).astype(np.float32)
    graph = net(trusted=True)
    table = calibrate(graph, ["x"], lambda: [{"x": x}], 512, tmp_path, histograms=True, threads=1)
    asked: list[tuple[float, float]] = []

    def noted(_: SwitchedGraph, __: str, bounds: tuple[float, float]) -> float:
        asked.append(bounds)
        return 1.0

    monkeypatch.setattr(SwitchedGraph, "error", noted)
    assert choose_ranges(graph, table, "per_tensor", False, [{"x": x}])["x"].calibrator == "minmax"
    assert len(asked) == 1


def test_a_tensor_that_does_next_to_no_harm_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside `x`, which feeds `y`, `small` adds a thousandth."""
    nodes = [node("Mul", "x thousandth", "small"), node("Relu", "x", "r"), node("Relu", "small", "s")]
    graph = graph_of([*nodes, node("Add", "r s", "y")], {"thousandth": np.array(1e-3)}, ("n", WIDTH))
    table = calibrate(graph, ["x", "small"], feeds, 512, tmp_path, histograms=True, threads=1)
    asked: list[str] = []
    error = SwitchedGraph.error

    def noted(self: SwitchedGraph, tensor: str, bounds: tuple[float, float]) -> float:
        asked.append(tensor)
        return error(self, tensor, bounds)

    monkeypatch.setattr(SwitchedGraph, "error", noted)
    chosen = choose_ranges(graph, table, "per_tensor", False, feeds())
    assert asked.count("small") == 1
    assert asked.count("x") > 1
    assert chosen["small"].calibrator == "minmax"


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_one_calibrator_for_all_needs_no_feeds(tmp_path: Path, calibrator: Calibrator) -> None:
    graph = net(trusted=True)
    table = observed_table(graph, tmp_path)
    for name, found in choose_ranges(graph, table, calibrator, True).items():
        assert found == ChosenRange(*range_of(table.observations[name], calibrator, symmetric=True), calibrator)


@pytest.mark.parametrize(("limit", "expected"), [(10**9, [64] * 4), (90 * 2 * WIDTH * 4, [64, 26]), (1, [2])])
def test_fewer_rows_judge_where_a_row_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected: list[int]
) -> None:
    """Two tensors of 8 floats are observed: rows are as many as stay within the limit, and two at least."""
    graph = net(trusted=True)
    table = observed_table(graph, tmp_path)
    monkeypatch.setattr(calibrators, "_JUDGING_BYTES", limit)
    judged: list[int] = []
    init = SwitchedGraph.__init__

    def noted(self: SwitchedGraph, *arguments: Any) -> None:
        judged.extend(len(feed["x"]) for feed in arguments[2])
        init(self, *arguments)

    monkeypatch.setattr(SwitchedGraph, "__init__", noted)
    choose_ranges(graph, table, "per_tensor", False, feeds())
    assert judged == expected


def test_a_row_without_an_axis_of_rows_judges_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrators, "_JUDGING_BYTES", 1)
    graph = graph_of([node("Relu", "x", "y")], {}, (5, WIDTH))
    whole: list[Tensors] = [{"x": np.full((5, WIDTH), 1 + number, np.float32)} for number in range(8)]
    table = calibrate(graph, ["x"], lambda: whole, 8, tmp_path, histograms=True, threads=1, is_whole=True)
    assert choose_ranges(graph, table, "per_tensor", False, whole)["x"].error is not None
