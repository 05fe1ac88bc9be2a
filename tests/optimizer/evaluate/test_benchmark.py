import threading

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.evaluate.benchmark import Schedule, benchmark, round_count

X = TensorSpec("x", DTYPES["FP32"], (-1,))
FEEDS = {batch: {"x": np.zeros(batch, np.float32)} for batch in (1, 2)}
SCHEDULE = Schedule((1, 2), seconds=0.04, seed=0)


class Recorder:
    """Engines that write down who ran, and take a known time."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []

    def engine(self, name: str, seconds: float) -> FakeEngine:
        never = threading.Event()

        def run(feeds: Tensors) -> Tensors:
            self.runs.append((name, len(feeds["x"])))
            never.wait(seconds)
            return {"x": feeds["x"]}

        return FakeEngine([X], [X], run)


def test_the_faster_engine_is_measured_as_faster() -> None:
    recorder = Recorder()
    measured = benchmark(
        {"source": recorder.engine("source", 2e-3), "fast": recorder.engine("fast", 2e-4)}, FEEDS, SCHEDULE
    )
    speedup = measured.speedup("fast")
    assert 2 < speedup.lower_95 <= speedup.median < 12
    points = measured.latency("fast")
    assert [point.batch for point in points] == [1, 2]
    assert all(point.median_ms < point.source_median_ms and point.median_ms <= point.p99_ms for point in points)
    assert points[0].rounds == measured.rounds >= 8
    assert measured.names == {"source", "fast"}


def test_the_same_engine_is_neither_faster_nor_slower() -> None:
    recorder = Recorder()
    same = benchmark({name: recorder.engine(name, 1e-3) for name in ("source", "twin")}, FEEDS, SCHEDULE)
    assert same.speedup("twin").median == pytest.approx(1.0, abs=0.15)


def test_engines_take_turns_in_shuffled_order() -> None:
    recorder = Recorder()
    names = ("source", "a", "b")
    measured = benchmark({name: recorder.engine(name, 1e-3) for name in names}, FEEDS, Schedule((1,), 1e-6, 0))
    visits = [name for name, _ in recorder.runs[9:]]
    rounds = [tuple(visits[start : start + 3]) for start in range(0, len(visits), 3)]
    assert len(rounds) == measured.rounds
    assert all(sorted(order) == sorted(names) for order in rounds)
    assert len(set(rounds)) > 1


def test_rounds_are_reported_as_they_pass() -> None:
    seen: list[tuple[int, int]] = []
    benchmark(
        {"source": Recorder().engine("source", 1e-4)}, FEEDS, SCHEDULE, lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))


@pytest.mark.parametrize(("per_round", "seconds", "expected"), [(1e-6, 6.0, 24), (0.5, 6.0, 12), (60.0, 6.0, 8)])
def test_slow_engines_get_fewer_rounds_within_limits(per_round: float, seconds: float, expected: int) -> None:
    assert round_count(per_round, seconds) == expected
