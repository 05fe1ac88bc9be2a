"""Who is let in, how large batches are, and what runs now: pure choices, held to what they promise."""

from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.batch import BatchPolicy
from service.scheduling.deadline_plan import (
    Outlook,
    Plan,
    best_batch_rows,
    plan_batch,
    predicted_end,
)
from service.scheduling.latency_curve import LatencyCurve, MeasuredPoint


@dataclass(frozen=True)
class Entry:
    due: float
    rows: int = 1
    shape_key: str = "a"
    level: int = 0
    is_probe: bool = False


def curve_of(fixed: float, per_row: float, max_rows: int) -> LatencyCurve:
    """A curve without any noise, so that what is foretold is what happens."""
    sizes = {1, max_rows} if max_rows > 1 else {1}
    return LatencyCurve(max_rows, [MeasuredPoint(rows, *[fixed + per_row * rows] * 2) for rows in sizes])


SLOPED = curve_of(2.0, 0.25, 32)
FLAT = curve_of(10.0, 0.0, 16)
SINGLE = curve_of(10.0, 0.0, 1)


def outlook(
    free_at: tuple[float, ...] = (0.0,), batch_rows: int = 32, rate: float = 0.0, reserve: float = 0.0
) -> Outlook:
    return Outlook(0.0, free_at, batch_rows, rate, reserve)


@pytest.mark.parametrize(
    ("before", "rows", "seen", "curve", "end"),
    [
        (0, 1, outlook(), SLOPED, 2.25),
        (0, 1, outlook(reserve=0.5), SLOPED, 2.75),
        (3, 1, outlook(), SLOPED, 3.0),
        (0, 1, outlook((7.0,)), SLOPED, 9.25),
        (0, 1, outlook((7.0,), rate=1.0), SLOPED, 7 + 2 + 8 * 0.25),
        (0, 1, outlook((7.0,), rate=100.0), SLOPED, 17.0),
        (32, 1, outlook(), SLOPED, 12.25),
        (31, 2, outlook(), SLOPED, 12.5),
        (2, 1, outlook(batch_rows=1), SINGLE, 30.0),
        (2, 1, outlook((0.0, 4.0), batch_rows=1), SINGLE, 20.0),
        (3, 1, outlook((0.0, 4.0), batch_rows=1), SINGLE, 24.0),
    ],
)
def test_the_predicted_end_counts_what_runs_what_waits_and_its_own_batch(
    before: int, rows: int, seen: Outlook, curve: LatencyCurve, end: float
) -> None:
    assert predicted_end(before, rows, seen, curve) == pytest.approx(end)


def test_what_runs_vary_by_is_added_once_and_grows_with_the_root_of_their_number() -> None:
    curve = LatencyCurve(1, [MeasuredPoint(1, 10.0, 12.0)])
    ends = [predicted_end(before, 1, outlook(batch_rows=1), curve) for before in (0, 3)]
    assert ends == pytest.approx([12.0, 44.0])


@pytest.mark.parametrize(
    ("curve", "slo", "rows"),
    [
        (FLAT, 25, 16),
        (FLAT, 20, 16),
        (FLAT, 9, 1),
        (SLOPED, 25, 32),
        (SLOPED, 9, 8),
        (curve_of(0, 1, 16), 100, 16),
        (curve_of(0, 1, 16), 8.5, 4),
        (LatencyCurve(16), 5, 16),
    ],
)
def test_batches_are_as_large_as_pays_within_the_objective(curve: LatencyCurve, slo: float, rows: int) -> None:
    assert best_batch_rows(curve, slo, 0.0, 1, 0.0) == rows


@pytest.mark.parametrize(
    ("line", "policy", "plan"),
    [
        ([Entry(50)] * 3, BatchPolicy(32), Plan(0, 3)),
        ([Entry(50)] * 40, BatchPolicy(32), Plan(0, 32)),
        ([Entry(50)] * 3, BatchPolicy(32, is_dynamic=False), Plan(0, 1)),
        ([Entry(50)] * 3, BatchPolicy(0), Plan(0, 1)),
        ([Entry(50), Entry(50, shape_key="b")], BatchPolicy(32), Plan(0, 1)),
        ([Entry(50, rows=20), Entry(50, rows=20)], BatchPolicy(32), Plan(0, 1)),
        ([Entry(2.0), Entry(50)], BatchPolicy(32), Plan(1, 1)),
        ([Entry(2.0)] * 3, BatchPolicy(32), Plan(3, 0)),
        ([Entry(2.0, is_probe=True)], BatchPolicy(32), Plan(0, 1)),
        ([Entry(3.0)] * 8, BatchPolicy(32), Plan(0, 4)),
        ([Entry(3.0), *[Entry(50)] * 8], BatchPolicy(32), Plan(0, 4)),
        # After a small batch that the head allows, the 31 behind it would be late: it gives way.
        ([Entry(2.3), *[Entry(10.5)] * 31], BatchPolicy(32), Plan(1, 31)),
        # They would not be late: the head is served.
        ([Entry(2.3), *[Entry(12.1)] * 31], BatchPolicy(32), Plan(0, 1)),
        # They are of a lower level, which never pushes a higher one out.
        ([Entry(2.3), *[Entry(10.5, level=1)] * 31], BatchPolicy(32), Plan(0, 1)),
        # Nor where those of its own level behind it are lost anyway.
        ([Entry(2.3), Entry(3.0, rows=8), *[Entry(10.5, level=1)] * 31], BatchPolicy(32), Plan(0, 1)),
        # Few are not worth more than those who would give way.
        ([*[Entry(3.0)] * 4, *[Entry(5.0)] * 2], BatchPolicy(32), Plan(0, 4)),
    ],
)
def test_the_plan(line: list[Entry], policy: BatchPolicy, plan: Plan) -> None:
    assert plan_batch(line, policy, outlook(), SLOPED, 32) == plan


@st.composite
def lines(draw: st.DrawFn) -> list[Entry]:
    entries = st.builds(
        Entry,
        due=st.floats(0, 40),
        rows=st.integers(1, 8),
        shape_key=st.sampled_from("aab"),
        level=st.integers(0, 1),
        is_probe=st.sampled_from([False] * 9 + [True]),
    )
    return sorted(draw(st.lists(entries, min_size=1, max_size=40)), key=lambda one: (one.level, one.due))


@given(lines(), st.integers(1, 32), st.sampled_from([SLOPED, curve_of(0.5, 0.9, 32)]), st.floats(0, 3))
def test_nobody_in_a_batch_is_late_because_of_it_and_nobody_is_refused_without_need(
    line: list[Entry], batch_rows: int, curve: LatencyCurve, reserve: float
) -> None:
    seen = outlook(reserve=reserve)
    plan = plan_batch(line, BatchPolicy(32), seen, curve, batch_rows)
    batch = line[plan.late : plan.late + plan.count]
    rows = sum(one.rows for one in batch)
    assert len({one.shape_key for one in batch}) <= 1
    assert len(batch) <= 1 or rows <= batch_rows
    # A probe runs alone if it must, and then it alone may be late.
    ends_at = curve.seconds(rows) + reserve
    assert all(one.is_probe or ends_at <= one.due + 1e-9 for one in batch)
    refused = line[: plan.late]
    assert not any(one.is_probe for one in refused) or rows > 0
    hopeless = [one for one in refused if curve.seconds(one.rows) + reserve > one.due and not one.is_probe]
    if len(hopeless) < len(refused):
        # Who could have run alone gave way to more rows, all of its own level.
        assert rows > min(one.rows for one in refused if one not in hopeless)
        assert {one.level for one in refused if one not in hopeless} == {batch[0].level}
    if not batch:
        assert len(hopeless) == len(line)


@given(lines())
def test_with_all_the_time_in_the_world_everything_that_fits_runs(line: list[Entry]) -> None:
    patient = [Entry(inf, one.rows, one.shape_key, one.level) for one in line]
    plan = plan_batch(patient, BatchPolicy(32), outlook(), SLOPED, 32)
    assert plan.late == 0
    rows = sum(one.rows for one in patient[: plan.count])
    if plan.count < len(patient):
        following = patient[plan.count]
        assert following.shape_key != patient[0].shape_key or rows + following.rows > 32


@given(
    st.integers(0, 200),
    st.integers(1, 8),
    st.lists(st.floats(0, 12), min_size=1, max_size=4),
    st.floats(0, 20),
    st.integers(1, 200),
)
def test_more_before_it_never_lets_a_request_end_sooner(
    before: int, rows: int, free_at: list[float], rate: float, more: int
) -> None:
    seen = Outlook(0.0, sorted(free_at), 32, rate, 0.0)
    full_batches_more = 32 * more * len(free_at)
    sooner = predicted_end(before, rows, seen, SLOPED)
    assert sooner <= predicted_end(before + full_batches_more, rows, seen, SLOPED) + 1e-9
