"""An instance runs one batch at a time, on its thread or inline, and survives whatever its engine does."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import DeadlineExceeded, EngineCrashed, EngineFailed, InvalidInput, NotReady
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from service.clock import FakeClock
from service.scheduling.computation import TensorComputation
from service.scheduling.instance import Batch, Instance
from service.scheduling.offer import Offer
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout
from tests.service.conftest import X, Y, make_request, tenfold

LAYOUT = Layout((X,), (Y,), {}, True)


class Heard:
    """Collects finished batches, on the thread that a real loop would use."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.batches: list[Batch] = []
        self.threads: list[threading.Thread] = []
        self.woken = threading.Event()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        self.threads.append(threading.current_thread())
        self.clock.call_soon(callback, *args)
        self.woken.set()

    def on_done(self, _: Instance, batch: Batch) -> None:
        self.batches.append(batch)

    def wait(self) -> Batch:
        assert self.woken.wait(30)
        self.woken.clear()
        self.clock.run_ready()
        return self.batches[-1]


@contextmanager
def running(engine: FakeEngine, layout: Layout = LAYOUT) -> Iterator[tuple[Instance, Heard]]:
    heard = Heard()
    heard.clock.call_soon_threadsafe = heard.call_soon_threadsafe  # type: ignore[method-assign]
    instance = Instance("m-1-0", TensorComputation(engine, layout), heard.clock, heard.on_done)
    yield instance, heard
    assert instance.close(30)
    assert engine.is_closed
    assert not instance._thread.is_alive()


def make_batch(*values: float) -> Batch:
    pendings = [Pending(make_request([value]), lambda _: None, 1, None) for value in values]
    return Batch(pendings, len(values), 0.0)


def fake(function: Callable[[Tensors], Tensors] = tenfold) -> FakeEngine:
    return FakeEngine([X], [Y], function)


def test_a_batch_runs_on_the_instances_thread_and_is_timed() -> None:
    with running(fake()) as (instance, heard):
        instance.start(make_batch(1, 2))
        batch = heard.wait()
        assert [np.frombuffer(answer.outputs[0].data, np.float32).tolist() for answer in batch.answers] == [
            [10, 10],
            [20, 20],
        ]
        (execution,) = batch.executions
        assert heard.threads[0].name == "m-1-0"
        assert heard.threads[0].daemon
        assert execution.rows == 2
        assert min(execution.join_seconds, execution.infer_seconds, execution.split_seconds) >= 0


def test_a_fast_engine_moves_inline_and_a_slow_one_back_to_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(fake()) as (instance, heard):
        monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 1e9)
        instance.start(make_batch(1))
        heard.wait()
        monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 0.0)
        instance.start(make_batch(2))
        assert len(heard.batches) == 1, "the end of an inline batch is heard in the next iteration, not before"
        heard.clock.run_ready()
        assert len(heard.batches) == 2
        assert len(heard.threads) == 1, "it ran on the owner's thread"
        instance.start(make_batch(3))
        heard.wait()
        assert len(heard.threads) == 2


class Wordless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ZeroDivisionError("odd"), "the engine failed: ZeroDivisionError: odd"),
        (MemoryError(), "the engine failed: MemoryError"),
        (SystemExit(3), "the engine failed: SystemExit: 3"),
        (KeyboardInterrupt(), "the engine failed: KeyboardInterrupt"),
        (Wordless(), "Wordless"),
        (EngineFailed("its own words"), "its own words"),
    ],
)
def test_whatever_an_engine_raises_fails_its_batch_and_nothing_else(failure: Exception, message: str) -> None:
    engine = fake()
    engine.failures.append(failure)
    with running(engine) as (instance, heard):
        instance.start(make_batch(1))
        (answer,) = heard.wait().answers
        assert isinstance(answer.error, EngineFailed)
        assert message in str(answer.error)
        instance.start(make_batch(1))
        assert heard.wait().answers[0].error is None


def test_an_error_of_our_own_tree_keeps_its_kind() -> None:
    engine = fake()
    engine.failures.append(InvalidInput("the caller's fault"))
    with running(engine) as (instance, heard):
        instance.start(make_batch(1))
        assert isinstance(heard.wait().answers[0].error, InvalidInput)


@pytest.mark.parametrize(
    "function",
    [
        lambda _: {},
        lambda _: None,
        lambda _: {"y": None},
        lambda _: {"y": [1, 2]},
        lambda _: {"y": np.zeros((7, 2), np.float32)},
        lambda _: {"y": np.zeros((1, 2), np.int8)},
        lambda _: {"y": np.zeros((), np.float32)},
    ],
)
def test_an_engine_that_returns_nonsense_fails_its_batch(function: Callable[[Tensors], Tensors]) -> None:
    with running(fake(function)) as (instance, heard):
        instance.start(make_batch(1))
        assert isinstance(heard.wait().answers[0].error, EngineFailed)


def told(heard: Heard, count: int) -> list[Batch | None]:
    """What each of so many batches was followed by."""
    while len(heard.batches) < count:
        heard.wait()
    return [batch.followed_by for batch in heard.batches]


def slow(may_go_on: threading.Event, clock: Callable[[], FakeClock]) -> FakeEngine:
    """Takes a second, and not before it may."""

    def wait(feeds: Tensors) -> Tensors:
        assert may_go_on.wait(30)
        clock().time += 1
        return tenfold(feeds)

    return fake(wait)


def test_what_is_offered_begins_when_the_batch_before_it_ends() -> None:
    may_go_on, offer = threading.Event(), Offer()
    with running(slow(may_go_on, lambda: heard.clock)) as (instance, heard):
        first, second = make_batch(1), make_batch(2)
        instance.start(first, offer)
        offer.make(second)
        may_go_on.set()
        assert told(heard, 2) == [second, None]
    assert heard.batches == [first, second]
    assert (first.started_at, first.ended_at) == (0, 1)
    assert (second.started_at, second.ended_at) == (1, 2)
    assert offer.take() is None
    assert not instance.is_inline


def test_who_left_and_whose_time_is_over_is_not_in_the_batch_that_begins_by_itself() -> None:
    may_go_on, offer = threading.Event(), Offer()
    engine = slow(may_go_on, lambda: heard.clock)
    with running(engine) as (instance, heard):
        instance.start(make_batch(1), offer)
        second = make_batch(2, 3, 4)
        second.pendings[0].settle(DeadlineExceeded("too late"))
        second.pendings[1].request.deadline = 0.5
        offer.make(second)
        may_go_on.set()
        told(heard, 2)
        gone = make_batch(5)
        gone.pendings[0].settle(DeadlineExceeded("too late"))
        offer.make(gone)
        instance.start(make_batch(6, 7), offer)
        told(heard, 4)
    assert [feeds["x"].tolist() for feeds in engine.runs] == [[[1.0, 1.0]], [[4.0, 4.0]], [[6.0, 6.0], [7.0, 7.0]]]
    assert [(batch.rows, len(batch.pendings), len(batch.answers)) for batch in (second, gone)] == [(1, 1, 1), (0, 0, 0)]


def test_an_instance_that_is_never_idle_keeps_nothing_of_what_it_ran() -> None:
    offer, begun = Offer(), threading.Semaphore(0)
    may_end = threading.Semaphore(0)

    def one_by_one(feeds: Tensors) -> Tensors:
        begun.release()
        assert may_end.acquire(timeout=30)
        return tenfold(feeds)

    with running(fake(one_by_one)) as (instance, heard):
        first = make_batch(1)
        seen = weakref.ref(first.pendings[0]._settle)
        instance.start(first, offer)
        assert begun.acquire(timeout=30)
        offer.make(make_batch(2))
        may_end.release()
        assert begun.acquire(timeout=30)
        heard.wait().followed_by = None
        heard.batches.clear()
        del first
        assert seen() is None
        may_end.release()
        heard.wait()


def test_closing_waits_for_the_batch_that_runs() -> None:
    entered, may_end = threading.Event(), threading.Event()

    def slow(feeds: Tensors) -> Tensors:
        entered.set()
        assert may_end.wait(30)
        return tenfold(feeds)

    heard, engine = Heard(), fake(slow)
    instance = Instance("m-1-0", TensorComputation(engine, LAYOUT), heard.clock, heard.on_done)
    instance.start(make_batch(1))
    assert entered.wait(30)
    closer = threading.Thread(target=instance.close, args=(30,))
    closer.start()
    was_closed_early = engine.is_closed
    may_end.set()
    closer.join(30)
    heard.clock.run_ready()
    assert (was_closed_early, engine.is_closed) == (False, True)
    assert heard.batches[0].answers[0].error is None


def test_a_failure_never_moves_a_slow_engine_onto_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 1e9)
    engine = fake()
    engine.failures.append(RuntimeError("planted"))
    with running(engine) as (instance, heard):
        for _ in range(2):
            instance.start(make_batch(1))
            heard.wait()
        assert len(heard.threads) == 2


def test_a_batch_with_more_rows_than_any_fast_one_goes_to_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 1000.0)
    with running(fake()) as (instance, heard):
        for values in ([1.0, 2.0], [1.0, 2.0, 3.0]):
            instance.start(make_batch(*values))
            heard.wait()
        on_thread = len(heard.threads)
        instance.start(make_batch(1.0))
        heard.clock.run_ready()
        assert len(heard.threads) == on_thread
        assert len(heard.batches) == 3


def test_one_bad_request_does_not_fail_the_company_it_was_put_in() -> None:
    def refuse_negative(feeds: Tensors) -> Tensors:
        if (feeds["x"] < 0).any():
            raise ValueError("negative")
        return tenfold(feeds)

    with running(fake(refuse_negative)) as (instance, heard):
        instance.start(make_batch(1, -2, 3))
        batch = heard.wait()
    good, bad, other = batch.answers
    assert isinstance(bad.error, EngineFailed)
    assert [np.frombuffer(answer.outputs[0].data, np.float32)[0] for answer in (good, other)] == [10, 30]
    assert [execution.rows for execution in batch.executions] == [1, 1]


def test_an_engine_whose_rows_vary_in_size_never_runs_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 1e9)
    open_rows = TensorSpec("x", DTYPES["FP32"], (-1, -1))
    with running(fake(), Layout((open_rows,), (Y,), {}, True)) as (instance, heard):
        for _ in range(3):
            instance.start(make_batch(1))
            heard.wait()
        assert len(heard.threads) == 3


def test_a_batch_that_failed_goes_back_to_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 1e9)
    engine = fake()
    with running(engine) as (instance, heard):
        instance.start(make_batch(1, 2))
        heard.wait()
        engine.failures.append(ValueError("planted"))
        instance.start(make_batch(1, 2))
        heard.clock.run_ready()
        assert [answer.error for answer in heard.batches[-1].answers] == [None, None]
        on_thread = len(heard.threads)
        instance.start(make_batch(1, 2))
        heard.wait()
        assert len(heard.threads) == on_thread + 1


@pytest.mark.parametrize("failure", [EngineCrashed("gone"), NotReady("starting again")])
def test_what_ended_its_process_is_not_run_again_with_its_mates(failure: Exception) -> None:
    engine = fake()
    engine.failures.append(failure)
    with running(engine) as (instance, heard):
        instance.start(make_batch(1, 2, 3))
        answers = heard.wait().answers
    assert [answer.error for answer in answers] == [failure] * 3
    assert len(engine.runs) == 1


def test_requests_that_were_settled_meanwhile_are_not_run_again() -> None:
    engine = fake()
    engine.failures.append(ValueError("planted"))
    batch = make_batch(1, 2, 3)
    batch.pendings[1].settle(InvalidInput("gone"))
    with running(engine) as (instance, heard):
        instance.start(batch)
        heard.wait()
    assert [answer.error is None for answer in batch.answers] == [True, False, True]
    assert len(engine.runs) == 3
