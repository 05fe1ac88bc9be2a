"""A full line is handed to an instance before it is free, late enough that nothing promised is broken."""

from typing import Any

import pytest

from enginehouse.errors import Cancelled, DeadlineExceeded
from service.clock import FakeClock
from service.scheduling.batch import BatchPolicy
from service.scheduling.batcher import AHEAD_SECONDS
from service.scheduling.latency_curve import MeasuredPoint
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS
from service.scheduling.queue_policy import QueuePolicy
from service.scheduling.rate_limiter import Needs, RateLimiter, Resource
from tests.service.simulation import Simulation

HUNDRED_MS = 0.1


def one_of(policy: BatchPolicy, queue_policy: QueuePolicy | None = None, instances: int = 1) -> Simulation:
    """A model that has run a batch, so that it is known how long one takes."""
    one = Simulation(policy, lambda _: HUNDRED_MS, queue_policy, instances, [MeasuredPoint(4, HUNDRED_MS, HUNDRED_MS)])
    one.ask(rows=policy.full_rows)
    one.clock.advance(1)
    return one


@pytest.mark.parametrize("queue_policy", [QueuePolicy(), QueuePolicy(slo_seconds=10)])
def test_a_full_batch_is_handed_over_shortly_before_the_one_before_it_ends(queue_policy: QueuePolicy) -> None:
    one = one_of(BatchPolicy(4), queue_policy)
    for _ in range(9):
        one.ask()
    one.clock.advance(HUNDRED_MS - AHEAD_SECONDS - 0.001)
    assert [batch.rows for batch in one.batches[1:]] == [4]
    one.clock.advance(0.0015)
    assert [batch.rows for batch in one.batches[1:]] == [4, 4]
    assert len(one.batcher.running()) == 8
    one.clock.advance(HUNDRED_MS)
    assert [batch.rows for batch in one.batches[1:]] == [4, 4], "one more may still come, so the last is not handed yet"
    one.clock.advance(1)
    assert [batch.rows for batch in one.batches[1:]] == [4, 4, 1]
    assert all(each.is_answered for each in one.asked)


@pytest.mark.parametrize("slo_seconds", [0, 10])
def test_a_loop_that_hears_late_keeps_its_instance_at_work(slo_seconds: float) -> None:
    one = one_of(BatchPolicy(4), QueuePolicy(slo_seconds=slo_seconds))
    one.instances[0].seconds_unheard = AHEAD_SECONDS
    begun = one.clock.now()
    for _ in range(10 * 4):
        one.ask()
    one.clock.advance(30)
    assert max(batch.ended_at for batch in one.batches) - begun == pytest.approx(10 * HUNDRED_MS)


def test_requests_that_run_alone_are_handed_over_one_by_one() -> None:
    one = one_of(BatchPolicy(4, is_dynamic=False))
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert len(one.batcher.running()) == 2
    assert one.batcher.depth == 1


def test_nothing_is_handed_over_while_nobody_knows_how_long_a_batch_takes() -> None:
    one = Simulation(BatchPolicy(1), lambda _: HUNDRED_MS)
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert len(one.batches) == 1


def test_what_waits_behind_a_large_batch_is_not_handed_over_as_early_as_behind_a_small_one() -> None:
    one = Simulation(BatchPolicy(32), lambda rows: 0.002 if rows == 1 else 0.05)
    one.ask()
    one.clock.advance(1)
    for _ in range(96):
        one.ask()
    one.clock.advance(0.045)
    assert len(one.batcher.running()) == 32


def test_one_with_a_higher_priority_that_comes_before_runs_next() -> None:
    one = one_of(BatchPolicy(1), QueuePolicy(levels=2, default_level=2))
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    urgent = one.ask(priority=1)
    one.clock.advance(HUNDRED_MS)
    assert one.batches[2].pendings == [urgent.pending]


def test_a_loop_that_counts_in_milliseconds_is_not_woken_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one = one_of(BatchPolicy(1))
    one.ask()
    one.clock.advance(HUNDRED_MS - AHEAD_SECONDS - 0.0002)
    waits: list[float] = []
    call_later = one.clock.call_later

    def note(seconds: float, *call: Any) -> Any:
        waits.append(seconds)
        return call_later(seconds, *call)

    monkeypatch.setattr(one.clock, "call_later", note)
    one.ask(deadline=one.clock.now() + 0.0015)
    one.ask()
    one.clock.advance(0.002)
    assert len(one.batcher.running()) == 2
    assert waits
    assert min(waits) >= LEAST_TIMEOUT_SECONDS


def test_a_deadline_holds_also_behind_a_batch_that_hangs() -> None:
    one = one_of(BatchPolicy(1))
    one.instances[0].seconds_of = lambda _: 60.0
    one.ask()
    behind, patient = one.ask(deadline=one.clock.now() + 0.5), one.ask()
    one.clock.advance(0.2)
    assert behind.pending in one.batcher.running()
    one.clock.advance(0.31)
    assert isinstance(behind.answer, DeadlineExceeded)
    assert one.left == [behind.pending]
    one.clock.advance(200)
    assert patient.is_answered
    assert len(behind.answers) == 1
    assert behind.pending not in [pending for batch in one.batches for pending in batch.pendings]


def test_each_deadline_of_a_batch_that_waits_holds_and_none_once_it_has_begun() -> None:
    one = one_of(BatchPolicy(2))
    one.instances[0].seconds_of = lambda _: 1.0
    for _ in range(2):
        one.ask()
    now = one.clock.now()
    waiting = [one.ask(deadline=now + seconds) for seconds in (0.3, 0.6)]
    one.clock.advance(0.2)
    assert len(one.batcher.running()) == 4
    one.clock.advance(0.11)
    assert [len(each.answers) for each in waiting] == [1, 0]
    one.clock.advance(0.3)
    assert [type(each.answer) for each in waiting] == [DeadlineExceeded] * 2
    one.clock.advance(10)
    first, second = (one.ask(deadline=one.clock.now() + 1.5) for _ in range(2))
    follower, other = (one.ask(deadline=one.clock.now() + 1.5) for _ in range(2))
    one.clock.advance(10)
    assert all(each.is_answered for each in (first, second, follower, other)), (
        "begun in time, so it is heard to the end"
    )


def test_a_caller_who_leaves_while_its_batch_waits_is_told_and_not_computed() -> None:
    one = one_of(BatchPolicy(1))
    one.ask()
    leaver = one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert leaver.pending in one.batcher.running()
    leaver.pending.cancel()
    assert isinstance(leaver.answer, Cancelled)
    leaver.pending.cancel()
    one.clock.advance(1)
    assert one.left == [leaver.pending]
    assert leaver.pending not in [pending for batch in one.batches for pending in batch.pendings]
    late = one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    late.pending.cancel()
    one.clock.advance(1)
    assert late.is_answered, "what runs is not stopped"


def test_nothing_waits_behind_one_of_several_instances() -> None:
    one = one_of(BatchPolicy(1), instances=2)
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert len(one.batcher.running()) == 2


def test_an_instance_that_runs_at_once_is_handed_nothing_before_it_is_free() -> None:
    one = one_of(BatchPolicy(1))
    one.instances[0].is_inline = True
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert len(one.batcher.running()) == 1


def test_a_batch_that_everybody_left_says_nothing_about_how_long_one_takes() -> None:
    one = one_of(BatchPolicy(1))
    one.ask()
    leaver = one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    leaver.pending.cancel()
    one.clock.advance(1)
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    assert len(one.batcher.running()) == 1, "too early to hand anything over"


def test_who_needs_resources_to_run_is_handed_nothing_before_it_has_them() -> None:
    clock = FakeClock()
    permits = RateLimiter(clock).join([Needs({Resource("R", 0): 1})])
    one = Simulation(BatchPolicy(1), lambda _: HUNDRED_MS, permits=permits, clock=clock)
    one.ask()
    one.clock.advance(1)
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    assert len(one.batcher.running()) == 1
