"""A request of a decoupled model stays in sight until its last response, whenever that comes."""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import EngineFailed, Error, Overloaded
from service.clock import Clock, FakeClock
from service.python_models.open_requests import OpenRequests
from service.python_models.request_computation import OPEN
from service.scheduling.computation import Answer, Execution
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import Pending
from service.scheduling.scheduler import Hooks
from tests.service.conftest import make_request

RAN = Answer(execution=Execution(1, 0.0, 0.0, 0.0))


class Inner:
    """A scheduler that decides nothing: batches are what the test says."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.depth = 0
        self.time_to_spare = math.inf
        self.on_quiet: Callable[[], None] | None = None

    def add_instances(self, instances: Sequence[Instance]) -> None: ...

    def admit(self, _: Pending) -> None:
        self.depth += 1

    def running(self) -> list[Pending]:
        return []

    def clear(self, reason: Error) -> None: ...

    def when_quiet(self, callback: Callable[[], None]) -> None:
        callback()

    def on_done(self, _: Any, batch: Batch) -> None:
        self.hooks.settle_batch(batch)


class Bench:
    def __init__(self, limit: int = 100) -> None:
        self.settled: list[tuple[Pending, Answer]] = []
        self.batches = 0
        hooks = Hooks(self.settle, lambda *_: None)
        self.requests = OpenRequests(self.make, FakeClock(), hooks, limit)

    def make(self, _: Clock, hooks: Hooks) -> Inner:
        return Inner(hooks)

    def settle(self, batch: Batch) -> None:
        self.batches += 1
        self.settled += zip(batch.pendings, batch.answers, strict=True)

    def done(self, *pairs: tuple[Pending, Answer]) -> None:
        batch = Batch([pending for pending, _ in pairs], len(pairs), 0.0, [answer for _, answer in pairs])
        self.requests.on_done(None, batch)  # type: ignore[arg-type]


def pending() -> Pending:
    return Pending(make_request(), lambda _: None, 1, None)


def test_what_is_open_is_settled_with_its_last_response_and_the_rest_at_once() -> None:
    bench, now, later = Bench(), pending(), pending()
    bench.done((now, RAN), (later, OPEN))
    assert bench.settled == [(now, RAN)]
    assert bench.requests.running() == [later]
    bench.requests.finish(later, RAN)
    assert bench.settled == [(now, RAN), (later, RAN)]
    assert bench.requests.running() == []


def test_a_last_response_that_overtakes_its_batch_is_not_lost() -> None:
    bench, early = Bench(), pending()
    bench.requests.finish(early, RAN)
    assert bench.settled == []
    bench.done((early, OPEN))
    assert bench.settled == [(early, RAN)]
    assert bench.requests.running() == []


def test_a_drain_waits_for_what_is_open() -> None:
    bench, later, drained = Bench(), pending(), []
    bench.done((later, OPEN))
    bench.requests.when_quiet(lambda: drained.append(True))
    assert drained == []
    bench.requests.finish(later, Answer(error=EngineFailed("so it goes")))
    assert drained == [True]
    other = Bench()
    other.requests.when_quiet(lambda: drained.append(True))
    assert drained == [True, True], "with nothing open it does not wait"


def test_no_more_may_be_open_than_the_limit() -> None:
    bench = Bench(limit=2)
    held = [pending(), pending()]
    for one in held:
        bench.requests.admit(one)
        bench.done((one, OPEN))
    with pytest.raises(Overloaded, match="2 requests still have responses to come"):
        bench.requests.admit(pending())
    bench.requests.finish(held[0], RAN)
    bench.requests.admit(pending())
    assert bench.requests.depth == 3


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_each_is_settled_exactly_once_in_whatever_order_things_are_heard(count: int, seed: int) -> None:
    chance, bench = random.Random(seed), Bench()
    requests = [pending() for _ in range(count)]
    events: list[Callable[[], None]] = []
    for start in range(0, count, 3):
        members = requests[start : start + 3]
        answers = [OPEN if chance.random() < 0.7 else RAN for _ in members]
        pairs = list(zip(members, answers, strict=True))
        events.append(partial(bench.done, *pairs))
        events += [partial(bench.requests.finish, one, RAN) for one, answer in pairs if answer is OPEN]
    chance.shuffle(events)
    for event in events:
        event()
    assert sorted(id(one) for one, _ in bench.settled) == sorted(map(id, requests))
    assert all(answer is RAN for _, answer in bench.settled)
    assert bench.requests.running() == []
