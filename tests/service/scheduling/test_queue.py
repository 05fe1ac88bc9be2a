"""The bounded line: first come, first served, and nobody leaves it without a word."""

import logging
import weakref
from functools import partial

import pytest

from enginehouse.errors import Cancelled, DeadlineExceeded, Error, NotReady, Overloaded
from service.clock import FakeClock
from service.request import InferResponse
from service.scheduling.queue import Pending, RequestQueue, deliver
from service.scheduling.queue_policy import LevelPolicy, QueuePolicy
from tests.service.conftest import make_request


class Line:
    def __init__(self, max_size: int = 0, policy: QueuePolicy | None = None, by_deadline: bool = False) -> None:
        self.clock = FakeClock()
        self.left: list[tuple[Pending, Error]] = []
        self.told: dict[Pending, list[InferResponse | Error]] = {}
        self.policy = policy or QueuePolicy(LevelPolicy(max_size=max_size))
        self.queue = RequestQueue(self.clock, self.policy, lambda *leaving: self.left.append(leaving), by_deadline)

    def admit(self, timeout_seconds: float = 0.0, priority: int = 0, rows: int = 1) -> Pending:
        told: list[InferResponse | Error] = []
        request = make_request(timeout_seconds=timeout_seconds, priority=priority)
        request.deadline, delay_at = self.policy.limits(request, self.clock.now())
        pending = Pending(request, told.append, rows, None, delay_at)
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


LEVELS = QueuePolicy(LevelPolicy(max_size=3), levels=3, default_level=2, by_level={3: LevelPolicy(max_size=1)})


def test_levels_are_served_one_after_the_other_and_each_in_its_order() -> None:
    line = Line(policy=LEVELS)
    third, second, first, default = (line.admit(priority=priority) for priority in (3, 2, 1, 0))
    assert list(line.queue) == [first, second, default, third]
    assert line.queue.take(2) == [first, second]
    late = line.admit(priority=1)
    assert line.queue.take(3) == [late, default, third]
    assert line.queue.depth == 0


def test_each_level_has_its_own_limit() -> None:
    line = Line(policy=LEVELS)
    line.admit(priority=3)
    with pytest.raises(Overloaded, match="maximum queue size of 1"):
        line.admit(priority=3)
    for _ in range(3):
        line.admit(priority=1)
    with pytest.raises(Overloaded, match="maximum queue size of 3"):
        line.admit(priority=1)
    line.admit(priority=2)


DELAYING = QueuePolicy(LevelPolicy(max_size=4, is_delayed=True, timeout_seconds=0.5), levels=2, default_level=1)


def test_one_that_may_stay_too_long_steps_back_behind_its_level_and_is_never_refused() -> None:
    line = Line(policy=DELAYING)
    slow = line.admit()
    line.clock.advance(0.4)
    other, lower = line.admit(), line.admit(priority=2)
    assert list(line.queue) == [slow, other, lower]
    line.clock.advance(0.1)
    assert list(line.queue) == [other, slow, lower]
    line.clock.advance(100)
    newer = line.admit()
    assert list(line.queue) == [newer, slow, other, lower]
    assert line.left == []
    line.admit()
    with pytest.raises(Overloaded):
        line.admit()
    assert line.queue.cancel(slow)
    assert line.queue.take(4)[2:] == [other, lower]


def test_one_that_stepped_back_is_still_refused_at_its_own_deadline() -> None:
    line = Line(policy=DELAYING)
    told: list[InferResponse | Error] = []
    pending = Pending(make_request(deadline=2.0), told.append, 1, None, delay_at=0.5)
    line.queue.admit(pending)
    line.clock.advance(1.9)
    assert told == []
    line.clock.advance(0.2)
    assert isinstance(told[0], DeadlineExceeded)


def test_one_whose_time_is_over_is_not_let_in() -> None:
    line = Line()
    line.clock.advance(5)
    pending = Pending(make_request(deadline=5.0), lambda _: None, 1, None)
    with pytest.raises(DeadlineExceeded, match="expired before it came to the queue"):
        line.queue.admit(pending)
    assert line.queue.depth == 0


def test_one_whose_timer_is_late_does_not_run() -> None:
    line = Line()
    expired, patient = line.admit(timeout_seconds=0.5), line.admit()
    line.clock.time = 0.6
    assert line.queue.refuse_expired(2)
    assert not line.queue.refuse_expired(2)
    assert isinstance(line.told[expired][0], DeadlineExceeded)
    assert list(line.queue) == [patient]


def test_the_earliest_deadline_of_a_level_is_served_first_where_that_is_asked_for() -> None:
    line = Line(policy=LEVELS, by_deadline=True)
    late, early = line.admit(5, rows=2), line.admit(1, rows=3)
    high = line.admit(9, priority=1, rows=4)
    never = line.admit(rows=5)
    assert list(line.queue) == [high, early, late, never]
    assert line.queue.rows_before(0, due=3) == 4 + 3
    assert line.queue.rows_before(0, due=5) == 4 + 3 + 2
    assert line.queue.rows_before(1, due=99) == 4
    assert line.queue.rows_before(3, due=0) == 14
    assert line.queue.behind(0, due=3) == [late, never]
    assert line.queue.behind(3, due=3) == []
    assert line.queue.cancel(late)
    assert line.queue.rows_before(3, due=0) == 12


def test_who_is_settled_no_longer_knows_whom_to_tell() -> None:
    told: list[str] = []
    pending = Pending(make_request(), lambda _: None, 1, None)
    pending.on_cancel = partial(told.append, "cancel")
    pending.on_pace = partial(told.append, "pace")
    held = [weakref.ref(pending.on_cancel), weakref.ref(pending.on_pace)]
    pending.settle(Cancelled("gone"))
    assert [each() for each in held] == [None, None]
    pending.cancel()
    assert told == []
