"""Waiting requests and idle instances are brought together; nobody waits for nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES
from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed, Error, Overloaded
from enginehouse.tensor import TensorSpec
from service.clock import FakeClock
from service.scheduling.batch import BatchPolicy
from service.scheduling.queue import Pending
from service.scheduling.queue_policy import LevelPolicy, QueuePolicy
from service.scheduling.rate_limiter import Needs, RateLimiter, Resource
from tests.service.conftest import MakeBench, make_request
from tests.service.simulation import Simulation

PATIENT = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 }"


def test_requests_of_one_iteration_run_together(bench: MakeBench) -> None:
    one = bench()
    for key in "abc":
        one.ask(key, make_request([ord(key)]))
    assert one.engines[0].runs == []
    one.clock.run_ready()
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [3]
    assert [one.answers.values(key) for key in "abc"] == [[970], [980], [990]]


def test_an_idle_instance_is_never_kept_waiting_without_a_delay(bench: MakeBench) -> None:
    one = bench()
    one.ask("a")
    one.clock.run_ready()
    assert one.answers.values("a") == [10]


def test_a_lonely_request_waits_for_company_and_no_longer(bench: MakeBench) -> None:
    one = bench(PATIENT)
    one.ask("a")
    one.clock.advance(0.4)
    one.ask("b")
    one.clock.advance(0.59)
    assert one.answers.of["a"] == []
    one.clock.advance(0.01)
    assert one.answers.values("a") == one.answers.values("b") == [10]
    assert len(one.engines[0].runs) == 1


def test_a_full_batch_does_not_wait(bench: MakeBench) -> None:
    one = bench(PATIENT)
    for key in "abcdef":
        one.ask(key)
    one.clock.run_ready()
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4]
    one.clock.advance(1)
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4, 2]
    assert all(one.answers.values(key) == [10] for key in "abcdef")


def test_preferred_sizes_cut_the_line(bench: MakeBench) -> None:
    one = bench(
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 1000000 }"
    )
    for number in range(7):
        one.ask(str(number))
    one.clock.advance(1)
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4, 2, 1]


def test_when_the_head_leaves_the_next_gets_its_own_time(bench: MakeBench) -> None:
    one = bench(PATIENT)
    first = one.ask("a")
    one.clock.advance(0.5)
    one.ask("b")
    assert first is not None
    first.cancel()
    one.clock.advance(0.9)
    assert one.answers.of["b"] == []
    one.clock.advance(0.1)
    assert one.answers.values("b") == [10]


def test_the_line_is_served_in_its_order_whatever_the_sizes(bench: MakeBench) -> None:
    one = bench()
    sizes = [1, 4, 2, 3, 1, 1, 4]
    for number, size in enumerate(sizes):
        one.ask(str(number), make_request([number] * size))
    one.clock.run_ready()
    seen = [row for feeds in one.engines[0].runs for row in feeds["x"][:, 0].tolist()]
    assert seen == [number for number, size in enumerate(sizes) for _ in range(size)]
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [1, 4, 2, 4, 1, 4]


def test_a_batch_that_fails_fails_alone(bench: MakeBench) -> None:
    one = bench()
    one.engines[0].failures.extend(RuntimeError("planted") for _ in range(5))
    for number in range(6):
        one.ask(str(number))
    one.clock.run_ready()
    for key in "0123":
        assert isinstance(one.answers.error(key), EngineFailed)
    assert one.answers.values("4") == one.answers.values("5") == [10]


def test_a_model_without_a_batch_runs_each_request_alone(bench: MakeBench) -> None:
    fixed = tuple(TensorSpec(name, DTYPES["FP32"], (2, 2)) for name in "xy")
    one = bench("", inputs=fixed[:1], outputs=fixed[1:])
    for key in "abc":
        one.ask(key, make_request([1, 2]))
    one.clock.run_ready()
    assert [feeds["x"].shape for feeds in one.engines[0].runs] == [(2, 2)] * 3
    assert one.answers.values("c") == [10, 20]


def test_an_instance_gets_its_next_batch_before_callers_hear_of_the_last(bench: MakeBench) -> None:
    one = bench()
    runs_when_told: list[int] = []
    for _ in range(8):
        one.model.infer(make_request(), lambda _: runs_when_told.append(len(one.engines[0].runs)))
    one.clock.run_ready()
    assert runs_when_told == [2] * 8


def test_quiet_is_told_once_when_nobody_waits_and_nothing_runs(bench: MakeBench) -> None:
    one, told = bench(PATIENT), list[str]()
    one.ask("a")
    one.model.drain(lambda: told.append("quiet"))
    assert told == []
    one.clock.advance(1)
    assert told == ["quiet"]
    one.clock.advance(5)
    assert told == ["quiet"]


def test_quiet_comes_also_when_the_last_one_leaves(bench: MakeBench) -> None:
    one, told = bench(PATIENT), list[str]()
    pending = one.ask("a")
    one.model.drain(lambda: told.append("quiet"))
    assert pending is not None
    pending.cancel()
    one.clock.run_ready()
    assert told == ["quiet"]


@pytest.mark.parametrize(("preserves", "order"), [(True, ["a", "b", "c"]), (False, ["b", "c", "a"])])
def test_answers_come_in_the_order_of_the_requests_where_that_is_promised(preserves: bool, order: list[str]) -> None:
    seconds = iter([1.0, 0.1, 0.1])
    one = Simulation(BatchPolicy(1, preserves_ordering=preserves), lambda _: next(seconds), instances=2)
    told: list[str] = []
    quiet: list[float] = []
    for key in "abc":
        pending = Pending(make_request(), lambda _, key=key: told.append(key), 1, None)  # type: ignore[misc]
        one.batcher.admit(pending)
    one.batcher.when_quiet(lambda: quiet.append(one.clock.now()))
    one.clock.advance(0.5)
    assert len(one.batches) == 3
    assert (told == []) == preserves
    assert len(one.batcher.running()) == (3 if preserves else 1)
    one.clock.advance(1)
    assert told == order
    assert quiet == [1.0]


def test_one_that_expired_never_runs_however_late_its_timer_is() -> None:
    seconds = iter([1000.0, 0.1])
    one = Simulation(BatchPolicy(8), lambda _: next(seconds))
    first = one.ask()
    one.clock.run_ready()
    expired, patient = one.ask(timeout_seconds=0.05), one.ask()
    # A loop that was kept busy: the run ended and the deadline passed, and the end of the run is heard first.
    one.clock.time = 0.5
    one.instances[0]._finish(one.batches[0])
    one.clock.advance(1)
    assert isinstance(expired.answer, DeadlineExceeded)
    assert first.is_answered
    assert patient.is_answered
    assert [batch.rows for batch in one.batches] == [1, 1]


def test_an_engine_that_is_granted_when_its_requests_are_gone_gives_its_resources_back() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock)
    needs = Needs({Resource("R", 0): 1})
    slow, quick = (
        Simulation(BatchPolicy(1), lambda _: 1.0, permits=limiter.join([needs]), clock=clock) for _ in range(2)
    )
    holder = slow.ask()
    clock.run_ready()
    leaver = quick.ask()
    clock.run_ready()
    leaver.pending.cancel()
    clock.advance(2)
    assert holder.is_answered
    assert quick.batches == []
    again = slow.ask()
    clock.advance(2)
    assert again.is_answered


def test_a_model_that_is_drained_leaves_its_resources_to_others() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock)
    one = Simulation(BatchPolicy(1), lambda _: 1.0, permits=limiter.join([Needs({Resource("R", 0): 2})]), clock=clock)
    last = one.ask()
    clock.run_ready()
    one.batcher.when_quiet(lambda: None)
    clock.advance(2)
    assert last.is_answered
    assert limiter._permits == []


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 4),  # priority
        st.integers(1, 3),  # rows
        st.sampled_from([0.0, 0.0, 0.03, 0.2]),  # timeout
        st.sampled_from([None, None, 0.01, 0.1]),  # when the caller leaves
        st.floats(0, 0.03),  # pause before the next one
    ),
    max_size=50,
)


@settings(max_examples=150)
@given(REQUESTS, st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.003]), st.integers(0, 2**16))
def test_who_comes_first_of_the_highest_level_runs_first_and_nobody_is_left_behind(
    requests: list[tuple[int, int, float, float | None, float]],
    instances: int,
    is_delayed: bool,
    has_objective: bool,
    seconds_unheard: float,
    seed: int,
) -> None:
    rng = random.Random(seed)
    policy = QueuePolicy(
        LevelPolicy(max_size=12),
        levels=3,
        default_level=2,
        by_level={2: LevelPolicy(is_delayed=is_delayed and not has_objective, max_size=12)},
        slo_seconds=0.08 if has_objective else 0.0,
    )
    one = Simulation(BatchPolicy(4), lambda rows: 0.004 * rows + rng.random() * 0.01, policy, instances)
    for instance in one.instances:
        instance.seconds_unheard = seconds_unheard
    if not seconds_unheard:
        one.watch_order()
    for priority, rows, timeout, leaves_after, pause in requests:
        asked = one.ask(rows, rng.choice("aab"), priority=priority, timeout_seconds=timeout)
        if leaves_after is not None:
            one.clock.call_later(leaves_after, asked.pending.cancel)
        one.clock.advance(pause)
    one.clock.advance(1000)
    assert one.batcher.depth == 0
    ran = [pending for batch in one.batches for pending in batch.pendings]
    assert len(ran) == len(set(ran))
    for asked in one.asked:
        assert len(asked.answers) == 1
        assert asked.is_answered == (asked.pending in ran and not isinstance(asked.answer, Error))
        if not asked.is_answered:
            assert isinstance(asked.answer, Overloaded | DeadlineExceeded | Cancelled)
            # What it was told before the loop heard that it runs still holds.
            assert asked.pending not in ran or isinstance(asked.answer, Cancelled) or seconds_unheard
    for batch in one.batches:
        assert sum(pending.rows for pending in batch.pendings) <= 4
        assert len({pending.shape_key for pending in batch.pendings}) == 1
        assert all(pending.due > batch.started_at for pending in batch.pendings)
