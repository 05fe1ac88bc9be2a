"""An instance begins its next batch by itself, and that breaks nothing that was promised to who waits."""

from collections.abc import Callable
from typing import Any

import pytest

from enginehouse.errors import Cancelled, DeadlineExceeded
from service.clock import FakeClock
from service.scheduling.batch import BatchPolicy
from service.scheduling.batcher import AHEAD_SECONDS, Batcher
from service.scheduling.latency_curve import MeasuredPoint
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS
from service.scheduling.queue_policy import LevelPolicy, QueuePolicy
from service.scheduling.rate_limiter import Needs, RateLimiter, Resource
from tests.service.simulation import Asked, Simulation

HUNDRED_MS = 0.1
UNHEARD = 0.002


def one_of(policy: BatchPolicy, queue_policy: QueuePolicy | None = None, instances: int = 1) -> Simulation:
    """A model that has run a batch, so that it is known how long one takes; its loop hears late of what ended."""
    one = Simulation(policy, lambda _: HUNDRED_MS, queue_policy, instances, [MeasuredPoint(4, HUNDRED_MS, HUNDRED_MS)])
    one.ask(rows=policy.full_rows)
    one.clock.advance(1)
    for instance in one.instances:
        instance.seconds_unheard = UNHEARD
        instance.batches.clear()
    return one


def rows_begun(one: Simulation) -> list[int]:
    return [batch.rows for batch in one.batches]


@pytest.mark.parametrize("slo_seconds", [0, 10])
@pytest.mark.parametrize("instances", [1, 3])
def test_a_loop_that_hears_late_keeps_its_instances_at_work(slo_seconds: float, instances: int) -> None:
    one = one_of(BatchPolicy(4), QueuePolicy(slo_seconds=slo_seconds), instances)
    begun = one.clock.now()
    for place in range(10 * instances):
        one.clock.advance(0.004)
        for _ in range(4):
            one.ask()
        one.clock.run_ready()
        assert sum(instance.is_busy for instance in one.instances) == min(instances, place + 1)
    one.clock.advance(30)
    last = 0.004 * instances + 10 * HUNDRED_MS
    assert max(batch.ended_at for batch in one.batches) - begun == pytest.approx(last, abs=2 * UNHEARD)


def test_who_comes_shortly_before_the_end_is_in_the_batch_that_begins_then() -> None:
    one = one_of(BatchPolicy(4))
    one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    last = [one.ask() for _ in range(3)]
    one.clock.advance(0.0005)
    assert (rows_begun(one), one.batcher.depth) == ([1], 3), "they wait in line until the loop hears"
    last.append(one.ask())
    one.clock.advance(0.001)
    assert (rows_begun(one), one.batcher.depth) == ([1, 4], 4)
    one.clock.advance(UNHEARD)
    assert one.batcher.depth == 0
    assert {each.pending for each in last} == set(one.batcher.running())
    one.clock.advance(1)
    assert all(each.is_answered for each in one.asked)


def test_a_batch_that_was_heard_does_not_hold_those_that_came_after_it() -> None:
    one = one_of(BatchPolicy(1))
    for _ in range(5):
        one.ask()
    one.clock.advance(1)
    assert rows_begun(one) == [1] * 5
    assert [batch.followed_by for batch in one.batches] == [None] * 5


def test_what_comes_while_a_batch_begins_unheard_waits_for_the_next_one() -> None:
    one = one_of(BatchPolicy(4))
    one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    first = one.ask()
    one.clock.advance(HUNDRED_MS / 2 + 0.001)
    second = one.ask()
    one.clock.advance(1)
    assert rows_begun(one) == [1, 1, 1]
    assert [len(each.answers) for each in (first, second)] == [1, 1]
    assert second.seconds == pytest.approx(2 * HUNDRED_MS - 0.001 + UNHEARD)


def test_company_is_waited_for_where_the_policy_asks_for_it() -> None:
    one = one_of(BatchPolicy(4, max_queue_delay_seconds=0.05))
    for _ in range(4):
        one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    lonely = one.ask()
    one.clock.advance(0.04)
    assert rows_begun(one) == [4]
    one.clock.advance(1)
    assert lonely.seconds == pytest.approx(0.05 + HUNDRED_MS + UNHEARD)
    for _ in range(8):
        one.ask()
    one.clock.advance(HUNDRED_MS + 0.001)
    assert rows_begun(one) == [4, 1, 4, 4], "a full one has nobody to wait for"


def test_nothing_is_offered_while_nobody_knows_how_long_a_batch_takes() -> None:
    one = Simulation(BatchPolicy(1), lambda _: HUNDRED_MS)
    one.instances[0].seconds_unheard = UNHEARD
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS + UNHEARD / 2)
    assert len(one.batches) == 1


@pytest.mark.parametrize("remaining", [HUNDRED_MS / 2, AHEAD_SECONDS / 2])
def test_one_with_a_higher_priority_runs_next_however_late_it_comes(remaining: float) -> None:
    one = one_of(BatchPolicy(1), QueuePolicy(levels=2, default_level=2))
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS - remaining)
    urgent = one.ask(priority=1)
    one.clock.advance(HUNDRED_MS)
    assert one.batches[1].pendings == [urgent.pending]


@pytest.mark.parametrize("slo_seconds", [0, 10])
def test_a_crowd_that_changes_nothing_costs_no_choice(slo_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    one = one_of(BatchPolicy(4), QueuePolicy(slo_seconds=slo_seconds))
    choices: list[None] = []
    look = Batcher._start_batches

    def count(batcher: Batcher) -> None:
        choices.append(None)
        look(batcher)

    monkeypatch.setattr(Batcher, "_start_batches", count)

    def come(count: int) -> list[Asked]:
        asked = []
        for _ in range(count):
            asked.append(one.ask())
            one.clock.run_ready()
        return asked

    one.ask(rows=4)
    one.clock.run_ready()
    choices.clear()
    one.clock.advance(HUNDRED_MS / 2)
    soon = come(10)
    assert len(choices) == 1, "the next offer is not due before long"
    one.clock.advance(HUNDRED_MS / 2 - 0.001)
    choices.clear()
    late = come(10)
    assert not choices, "what is offered is full"
    one.batcher._queue.cancel(soon[0].pending)
    one.clock.run_ready()
    assert len(choices) == 1, "somebody may take the place of one who left"
    one.clock.advance(UNHEARD)
    assert [each.pending for each in soon[1:5]] == one.batches[1].pendings
    one.clock.advance(10)
    assert all(each.is_answered for each in [*soon[1:], *late])


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
    one.ask()
    one.clock.advance(0.002)
    assert waits
    assert min(waits) >= LEAST_TIMEOUT_SECONDS
    one.clock.advance(AHEAD_SECONDS)
    assert len(one.batches) == 2


def test_a_deadline_holds_also_behind_a_batch_that_hangs() -> None:
    one = one_of(BatchPolicy(1))
    one.instances[0].seconds_of = lambda _: 60.0
    one.ask()
    behind, patient = one.ask(deadline=one.clock.now() + 0.5), one.ask()
    one.clock.advance(0.51)
    assert isinstance(behind.answer, DeadlineExceeded)
    assert one.left == [behind.pending]
    one.clock.advance(200)
    assert patient.is_answered
    assert len(behind.answers) == 1
    assert behind.pending not in [pending for batch in one.batches for pending in batch.pendings]


def leave(asked: Any) -> None:
    asked.pending.cancel()


def pass_away(asked: Any) -> None:
    asked.pending.request.deadline = 0.0


@pytest.mark.parametrize(("go", "told"), [(leave, Cancelled), (pass_away, DeadlineExceeded)])
def test_who_goes_while_its_batch_is_offered_is_told_and_not_computed(
    go: Callable[[Any], None], told: type[Exception]
) -> None:
    one = one_of(BatchPolicy(2))
    one.ask()
    one.clock.run_ready()
    goer, other = one.ask(), one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    go(goer)
    one.clock.advance(1)
    assert isinstance(goer.answer, told)
    assert other.is_answered
    assert one.left == [goer.pending]
    assert goer.pending not in [pending for batch in one.batches for pending in batch.pendings]


def test_those_behind_take_the_places_of_who_left_an_offered_batch() -> None:
    one = one_of(BatchPolicy(2))
    one.ask()
    one.clock.run_ready()
    asked = [one.ask() for _ in range(4)]
    one.clock.advance(HUNDRED_MS - 0.001)
    for leaver in asked[:2]:
        leaver.pending.cancel()
    one.clock.advance(0.0015)
    assert one.batches[-1].pendings == [each.pending for each in asked[2:]]


def test_who_leaves_before_the_loop_hears_that_it_runs_is_told_once() -> None:
    one = one_of(BatchPolicy(2))
    one.ask()
    one.clock.run_ready()
    leaver, other = one.ask(), one.ask()
    one.clock.advance(HUNDRED_MS + UNHEARD / 2)
    assert rows_begun(one) == [1, 2]
    stopped: list[str] = []
    leaver.pending.on_cancel = lambda: stopped.append("a model that can be told")
    leaver.pending.cancel()
    leaver.pending.cancel()
    assert len(stopped) == 1
    one.clock.advance(1)
    assert [type(answer) for _, answer in leaver.answers] == [Cancelled]
    assert other.is_answered
    late = one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    late.pending.cancel()
    one.clock.advance(1)
    assert late.is_answered, "what runs is not stopped"


def test_what_waits_behind_an_instance_that_hangs_runs_on_another() -> None:
    one = one_of(BatchPolicy(1), instances=2)
    working, hanging = one.instances
    hanging.seconds_of = lambda _: 60.0
    asked = [one.ask() for _ in range(5)]
    one.clock.advance(1)
    assert [each.answers == [] for each in asked] == [True, False, False, False, False]
    assert working.batches[-1].ended_at == pytest.approx(1 + 4 * HUNDRED_MS)


def test_an_instance_that_runs_at_once_is_offered_nothing() -> None:
    one = one_of(BatchPolicy(1))
    one.instances[0].is_inline = True
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS + UNHEARD / 2)
    assert len(one.batches) == 1


def test_a_batch_that_everybody_left_says_nothing_about_how_long_one_takes() -> None:
    one = one_of(BatchPolicy(1))
    one.ask()
    late = one.ask()
    one.clock.advance(HUNDRED_MS - 0.001)
    pass_away(late)
    one.clock.advance(1)
    assert len(one.instances[0].batches) == 2, "one had begun with nobody in it"
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS / 2)
    assert one.batcher._pool.withdraw()
    assert not one.batcher._pool._offer.take(), "too early to offer anything"


def test_who_needs_resources_to_run_begins_nothing_before_it_has_them() -> None:
    clock = FakeClock()
    permits = RateLimiter(clock).join([Needs({Resource("R", 0): 1})])
    one = Simulation(BatchPolicy(1), lambda _: HUNDRED_MS, permits=permits, clock=clock)
    one.instances[0].seconds_unheard = UNHEARD
    one.ask()
    one.clock.advance(1)
    for _ in range(3):
        one.ask()
    one.clock.advance(HUNDRED_MS + UNHEARD / 2)
    assert len(one.batches) == 2


def test_nothing_is_offered_where_who_waits_too_long_steps_back() -> None:
    one = one_of(BatchPolicy(1), QueuePolicy(LevelPolicy(is_delayed=True)))
    for _ in range(2):
        one.ask()
    one.clock.advance(HUNDRED_MS + UNHEARD / 2)
    assert len(one.batches) == 1
