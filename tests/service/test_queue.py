"""The bounded line: first come, first served, and nobody leaves it without a word."""

import logging

import pytest

from enginehouse.errors import Cancelled, DeadlineExceeded, Error, NotReady, Overloaded
from service.clock import FakeClock
from service.queue import Pending, RequestQueue, deliver
from service.queue_policy import LevelPolicy, QueuePolicy
from service.request import InferResponse
from tests.service.conftest import make_request


class Line:
    def __init__(self, max_size: int = 0) -> None:
        self.clock = FakeClock()
        self.left: list[tuple[Pending, Error]] = []
        self.told: dict[Pending, list[InferResponse | Error]] = {}
        self.queue = RequestQueue(
            self.clock, QueuePolicy(LevelPolicy(max_size=max_size)), lambda *leaving: self.left.append(leaving)
        )

    def admit(self, timeout_seconds: float = 0.0) -> Pending:
        told: list[InferResponse | Error] = []
        deadline = self.clock.now() + timeout_seconds if timeout_seconds else None
        pending = Pending(make_request(deadline=deadline), told.append, 1, None)
        self.told[pending] = told
        self.queue.admit(pending)
        return pending


def test_the_line_is_taken_from_its_head() -> None:
    line = Line()
    first, second, third = (line.admit() for _ in range(3))
    assert line.queue.take(2) == [first, second]
    assert list(line.queue) == [third]


def test_a_full_line_refuses_at_once_and_keeps_nothing() -> None:
    line = Line(max_size=2)
    line.admit()
    line.admit()
    with pytest.raises(Overloaded, match="model 'm': Exceeds maximum queue size of 2 requests"):
        line.admit(timeout_seconds=1)
    line.clock.advance(2)
    assert line.queue.depth == 2
    assert line.left == []
    line.queue.take(1)
    line.admit()


def test_zero_is_no_limit() -> None:
    line = Line(max_size=0)
    for _ in range(3000):
        line.admit()
    assert line.queue.depth == 3000


def test_one_that_waited_too_long_is_told_at_that_moment() -> None:
    line = Line()
    patient, hurried = line.admit(), line.admit(timeout_seconds=0.5)
    line.clock.advance(0.499)
    assert line.told[hurried] == []
    line.clock.advance(0.001)
    (answer,) = line.told[hurried]
    assert isinstance(answer, DeadlineExceeded)
    assert "Request timeout expired after 500 ms in queue" in str(answer)
    assert [pending for pending, _ in line.left] == [hurried]
    assert list(line.queue) == [patient]


def test_one_that_runs_no_longer_expires_nor_can_be_cancelled() -> None:
    line = Line()
    pending = line.admit(timeout_seconds=0.5)
    line.queue.take(1)
    line.clock.advance(9)
    assert not line.queue.cancel(pending)
    assert line.told[pending] == []
    assert line.left == []


def test_a_timer_does_not_outlive_its_request() -> None:
    line = Line()
    line.admit(timeout_seconds=60)
    cancelled: list[str] = []
    next(iter(line.queue)).timer = Marker(cancelled)
    line.queue.take(1)
    assert cancelled == ["yes"]


class Marker:
    def __init__(self, cancelled: list[str]) -> None:
        self._cancelled = cancelled

    def cancel(self) -> None:
        self._cancelled.append("yes")


def test_a_caller_who_leaves_takes_its_request_out_once() -> None:
    line = Line()
    pending = line.admit(timeout_seconds=0.5)
    assert pending.queue is line.queue
    assert line.queue.cancel(pending)
    assert not line.queue.cancel(pending)
    line.clock.advance(9)
    (answer,) = line.told[pending]
    assert isinstance(answer, Cancelled)
    assert pending.is_settled
    assert len(line.left) == 1


def test_clearing_tells_everybody_and_stops_their_timers() -> None:
    line = Line()
    everybody = [line.admit(timeout_seconds=at) for at in (0, 0.5, 0)]
    reason = NotReady("closing")
    line.queue.clear(reason)
    line.clock.advance(9)
    assert [line.told[pending] for pending in everybody] == [[reason]] * 3
    assert [pending for pending, _ in line.left] == everybody


def test_a_second_answer_goes_nowhere() -> None:
    told: list[InferResponse | Error] = []
    pending = Pending(make_request(), told.append, 1, None)
    first = NotReady("first")
    pending.settle(first)
    pending.settle(NotReady("second"))
    assert told == [first]


def test_a_caller_that_fails_is_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ConnectionResetError("gone")

    with caplog.at_level(logging.ERROR):
        deliver(fail, NotReady("x"), "m")
    assert "the caller of model 'm' could not take its answer" in caplog.text
    assert "gone" in caplog.text
