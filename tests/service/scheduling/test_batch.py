"""The choice of what runs next is a function of the line, the policy and the time."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.batch import BatchPolicy, Run, Wait, schedule


@dataclass(frozen=True)
class Entry:
    rows: int
    shape_key: str = "a"
    queued_at: float = 0.0


def line(*rows: int) -> list[Entry]:
    return [Entry(count) for count in rows]


EAGER = BatchPolicy(8)
PATIENT = BatchPolicy(8, max_queue_delay_seconds=1.0)
PREFERRED = BatchPolicy(16, preferred_rows=(4, 8), max_queue_delay_seconds=1.0)


@pytest.mark.parametrize(
    ("waiting", "policy", "now", "expected"),
    [
        (line(1), EAGER, 0, Run(1)),
        (line(1, 1, 1), EAGER, 0, Run(3)),
        (line(*[1] * 20), EAGER, 0, Run(8)),
        (line(3, 4, 2), EAGER, 0, Run(2)),
        (line(5, 5), EAGER, 0, Run(1)),
        (line(8, 1), EAGER, 0, Run(1)),
        ([Entry(1), Entry(1, "b"), Entry(1)], EAGER, 0, Run(1)),
        (line(1, 1), PATIENT, 0.25, Wait(0.75)),
        (line(1, 1), PATIENT, 1, Run(2)),
        (line(1, 1), PATIENT, 5, Run(2)),
        (line(4, 4), PATIENT, 0, Run(2)),
        (line(5, 4), PATIENT, 0, Run(1)),
        ([Entry(1), Entry(1, "b")], PATIENT, 0, Run(1)),
        ([Entry(1, queued_at=0.5), Entry(1, queued_at=0.9)], PATIENT, 1.0, Wait(0.5)),
        (line(1, 1, 1), PREFERRED, 0, Wait(1.0)),
        (line(1, 1, 1, 1), PREFERRED, 0, Run(4)),
        (line(1, 1, 1, 1, 1), PREFERRED, 0, Run(4)),
        (line(*[1] * 9), PREFERRED, 0, Run(8)),
        (line(3, 3), PREFERRED, 0, Wait(1.0)),
        (line(3, 5), PREFERRED, 0, Run(2)),
        (line(16), PREFERRED, 0, Run(1)),
        (line(1, 1), BatchPolicy(8, is_dynamic=False), 0, Run(1)),
        (line(1, 1), BatchPolicy(0), 0, Run(1)),
    ],
)
def test_the_choice(waiting: list[Entry], policy: BatchPolicy, now: float, expected: Run | Wait) -> None:
    assert schedule(waiting, policy, now) == expected


@pytest.mark.parametrize(("policy", "rows"), [(EAGER, 8), (BatchPolicy(0), 1), (BatchPolicy(8, is_dynamic=False), 1)])
def test_a_full_batch_is_of_the_rows_that_may_run_together(policy: BatchPolicy, rows: int) -> None:
    assert policy.full_rows == rows


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Entry], BatchPolicy, float]:
    size = draw(st.integers(1, 12))
    preferred = draw(st.sets(st.integers(1, size)))
    policy = BatchPolicy(size, tuple(sorted(preferred)), draw(st.sampled_from([0.0, 0.5, 2.0])), draw(st.booleans()))
    times = sorted(draw(st.lists(st.floats(0, 3), min_size=1, max_size=20)))
    entries = [Entry(draw(st.integers(1, size)), draw(st.sampled_from("ab")), at) for at in times]
    return entries, policy, times[-1] + draw(st.floats(0, 3))


@given(situations())
def test_whatever_the_line_the_head_is_served_and_the_policy_holds(
    situation: tuple[list[Entry], BatchPolicy, float],
) -> None:
    waiting, policy, now = situation
    choice = schedule(waiting, policy, now)
    if isinstance(choice, Wait):
        assert policy.is_dynamic
        assert 0 < choice.seconds <= waiting[0].queued_at + policy.max_queue_delay_seconds - now + 1e-9
        rows = sum(entry.rows for entry in waiting)
        assert {entry.shape_key for entry in waiting} == {waiting[0].shape_key}
        assert rows < policy.max_batch_rows
        assert rows not in policy.preferred_rows
        return
    batch = waiting[: choice.count]
    rows = sum(entry.rows for entry in batch)
    assert 1 <= choice.count <= len(waiting)
    assert rows <= policy.max_batch_rows
    assert {entry.shape_key for entry in batch} == {waiting[0].shape_key}
    if not policy.is_dynamic:
        assert choice.count == 1
    elif rows not in policy.preferred_rows and choice.count < len(waiting):
        following = waiting[choice.count]
        assert following.shape_key != batch[0].shape_key or rows + following.rows > policy.max_batch_rows


@given(situations())
def test_nobody_waits_longer_than_the_delay(situation: tuple[list[Entry], BatchPolicy, float]) -> None:
    waiting, policy, _ = situation
    assert isinstance(schedule(waiting, policy, waiting[0].queued_at + policy.max_queue_delay_seconds), Run)
