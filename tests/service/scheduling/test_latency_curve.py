"""What is foretold: at first the evidence, then what is measured, whatever the noise."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.evidence import CandidateRecord, LatencyPoint
from service.scheduling.latency_curve import MAX_SPREAD, WINDOW, LatencyCurve, MeasuredPoint, points_from_evidence
from tests.enginehouse.conftest import make_evidence

EVIDENCE = (MeasuredPoint(1, 0.002, 0.003), MeasuredPoint(8, 0.009, 0.0099), MeasuredPoint(32, 0.033, 0.0363))


def test_the_evidence_is_linear_between_its_points_and_beyond_them() -> None:
    curve = LatencyCurve(64, EVIDENCE)
    assert [curve.typical(rows) for rows in (1, 2, 8, 20, 32, 64)] == pytest.approx(
        [0.002, 0.003, 0.009, 0.021, 0.033, 0.065]
    )
    assert curve.spread == pytest.approx(1.5)
    assert curve.seconds(8) == pytest.approx(0.0135)
    assert curve.is_known
    assert list(curve.sizes) == [1, 2, 4, 8, 16, 32, 64]


def test_without_evidence_nothing_is_foretold_until_something_was_measured() -> None:
    curve = LatencyCurve(5)
    assert curve.seconds(4) == 0
    assert list(curve.sizes) == [1, 2, 4, 5]
    assert LatencyCurve(5).is_known is False
    curve.observe(2, 0.01)
    assert curve.is_known
    assert [curve.typical(rows) for rows in (1, 2, 5)] == [0.01, 0.01, 0.01]
    assert curve.seconds(2) == pytest.approx(0.012)


def test_two_measured_sizes_make_a_line() -> None:
    curve = LatencyCurve(32)
    for _ in range(20):
        curve.observe(2, 0.004)
        curve.observe(10, 0.012)
    assert [curve.typical(rows) for rows in (1, 6, 32)] == pytest.approx([0.004, 0.008, 0.034])


def test_a_size_that_was_not_measured_follows_the_nearest_in_the_shape_of_the_evidence() -> None:
    curve = LatencyCurve(32, EVIDENCE)
    for _ in range(20):
        curve.observe(8, 0.018)
    assert [curve.typical(rows) for rows in (1, 8, 32)] == pytest.approx([0.004, 0.018, 0.066])
    for _ in range(40):
        curve.observe(32, 0.040)
    assert [curve.typical(rows) for rows in (8, 32)] == pytest.approx([0.018, 0.040])


def test_beyond_what_ran_no_more_is_foretold_than_in_proportion() -> None:
    curve = LatencyCurve(32)
    for _ in range(20):
        curve.observe(2, 0.002)
        curve.observe(4, 0.008)
    assert curve.typical(32) == pytest.approx(0.064)


def test_evidence_that_falls_at_its_end_foretells_no_time_below_none() -> None:
    points = [MeasuredPoint(1, 0.00100, 0.001), MeasuredPoint(4, 0.00102, 0.001), MeasuredPoint(8, 0.00100, 0.001)]
    curve = LatencyCurve(256, points)
    assert curve.typical(256) == pytest.approx(0.001)
    curve.observe(256, 0.002)
    assert 0 < curve.typical(1) <= curve.typical(256)


def test_a_size_that_did_not_run_for_long_is_forgotten() -> None:
    curve = LatencyCurve(32)
    curve.observe(32, 5.0)
    for _ in range(63):
        curve.observe(4, 0.008)
    assert curve.typical(32) == pytest.approx(5.0)
    curve.observe(4, 0.008)
    assert curve.typical(32) == pytest.approx(0.008)


def test_one_stall_changes_nothing_that_matters() -> None:
    curve = LatencyCurve(8)
    for _ in range(50):
        curve.observe(8, 0.010)
    curve.observe(8, 1.0)
    assert curve.seconds(8) == pytest.approx(0.010)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_machine_that_changed_is_believed_within_a_window(factor: float) -> None:
    curve = LatencyCurve(8)
    for _ in range(200):
        curve.observe(8, 0.010)
    for _ in range(WINDOW):
        curve.observe(8, 0.010 * factor)
    assert curve.seconds(8) == pytest.approx(0.010 * factor)


def test_nine_of_ten_runs_are_within_what_is_foretold() -> None:
    rng = random.Random(0)
    curve = LatencyCurve(16)
    within = 0
    for number in range(2200):
        rows = rng.randint(1, 16)
        seconds = (0.002 + 0.0005 * rows) * rng.lognormvariate(0, 0.08)
        within += number >= 200 and seconds <= curve.seconds(rows)
        curve.observe(rows, seconds)
    assert 0.87 <= within / 2000 <= 0.97


def test_stalls_of_the_machine_do_not_make_every_run_look_hopeless() -> None:
    curve = LatencyCurve(8, [MeasuredPoint(8, 0.01, 0.9)])
    assert curve.spread == MAX_SPREAD
    for number in range(200):
        curve.observe(8, 0.5 if number % 4 == 0 else 0.01)
    assert curve.spread == MAX_SPREAD
    assert curve.seconds(8) == pytest.approx(0.01 * MAX_SPREAD)


def test_a_run_that_counts_afresh_overrules_all_before() -> None:
    curve = LatencyCurve(16, [MeasuredPoint(1, 1.0, 3.0), MeasuredPoint(16, 2.0, 6.0)])
    for _ in range(300):
        curve.observe(16, 5.0)
    curve.observe(1, 0.010, is_afresh=True)
    assert [curve.typical(rows) for rows in (1, 16)] == pytest.approx([0.010, 0.020])
    assert curve.spread == pytest.approx(1.2)


RUNS = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 10)), max_size=80)


@given(RUNS, st.booleans())
def test_more_rows_never_take_less_time_whatever_was_measured(
    runs: list[tuple[int, float]], has_evidence: bool
) -> None:
    curve = LatencyCurve(40, EVIDENCE if has_evidence else ())
    for rows, seconds in runs:
        curve.observe(rows, seconds)
        foretold = [curve.seconds(each) for each in range(1, 41)]
        assert all(less <= more * (1 + 1e-9) for less, more in pairwise(foretold))
        assert foretold[0] > 0


def test_the_curve_of_the_evidence_is_that_of_the_candidate_that_serves() -> None:
    latency = (
        LatencyPoint(batch=8, median_ms=9, p99_ms=12, source_median_ms=20, rounds=5),
        LatencyPoint(batch=1, median_ms=2, p99_ms=3, source_median_ms=4, rounds=5),
    )
    candidate = CandidateRecord(name="int8", precision="int8", latency=latency, verdict="chosen", reason="fast")
    evidence = make_evidence({}).model_copy(update={"candidates": (candidate,)})
    points = points_from_evidence(evidence, "int8")
    assert points == [MeasuredPoint(8, 0.009, 0.012), MeasuredPoint(1, 0.002, 0.003)]
    assert points_from_evidence(evidence, "other") == []
    assert LatencyCurve(8, points).typical(1) == 0.002
