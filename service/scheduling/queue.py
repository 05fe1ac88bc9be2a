"""The bounded waiting line of one model version. Everything here happens on the one thread that owns it."""

import logging
import math
from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from enginehouse.errors import Error, Overloaded
from service.clock import Clock, Timer
from service.refusals import came_too_late, cancelled, waited_too_long
from service.request import InferRequest, InferResponse, Settle
from service.scheduling.line import ArrivalLine, DeadlineLine, Line
from service.scheduling.queue_policy import LevelPolicy, QueuePolicy

_log = logging.getLogger(__name__)

# An event loop may count in whole milliseconds, and would take less for nothing at all.
LEAST_TIMEOUT_SECONDS = 0.001


def deliver(settle: Settle, answer: InferResponse | Error, model: str) -> None:
    """Answer a caller; one that fails never hurts the others."""
    if isinstance(answer, Error):
        # Its frames lead to the caller, and so back to it: only the collector would free what the request brought.
        answer.__traceback__ = None
    try:
        settle(answer)
    except Exception:
        # A closed transport may raise anything; the answer has nobody to go to.
        _log.exception("the caller of model '%s' could not take its answer", model)


class Waits(Protocol):
    """Where a request waits."""

    def cancel(self, pending: "Pending") -> bool:
        """Take out a request whose caller left; False if it is running or settled."""


class Pending:
    """A request on its way: admitted, perhaps running, not yet settled.

    Attributes:
        level: of priority; lower ones are served first.
        delay_at: when it steps back behind the others of its level; None for never.
        is_probe: it runs although it may come late, because nobody knows any more how long a run takes.
        is_cancelled: its caller left.
        on_cancel: told of that while it runs.
        on_pace: told, while its model can wait with responses, whether its caller is behind with reading them.
    """

    __slots__ = (
        "_settle",
        "delay_at",
        "is_cancelled",
        "is_probe",
        "level",
        "on_cancel",
        "on_pace",
        "queue",
        "queued_at",
        "request",
        "rows",
        "shape_key",
        "timer",
    )

    def __init__(
        self, request: InferRequest, settle: Settle, rows: int, shape_key: Hashable, delay_at: float | None = None
    ) -> None:
        self.request = request
        self.rows = rows
        self.shape_key = shape_key
        self.queued_at = 0.0
        self.level = 0
        self.delay_at = delay_at
        self.is_probe = False
        self.is_cancelled = False
        self.on_cancel: Callable[[], None] | None = None
        self.on_pace: Callable[[bool], None] | None = None
        self.timer: Timer | None = None
        self.queue: Waits | None = None
        self._settle: Settle | None = settle

    @property
    def is_settled(self) -> bool:
        return self._settle is None

    @property
    def due(self) -> float:
        """The request's deadline; infinity for none."""
        return math.inf if self.request.deadline is None else self.request.deadline

    def cancel(self) -> None:
        """Leave the line because the caller left; what is running finishes unheard, unless it wants to know."""
        self.is_cancelled = True
        # It may have begun already where it still stands in line: that is heard a moment later.
        on_cancel = None if self.is_settled else self.on_cancel
        if self.queue is not None:
            self.queue.cancel(self)
        if on_cancel is not None:
            on_cancel()

    def pace(self, is_behind: bool) -> None:
        """The caller is behind with reading responses, or has caught up; most models need not know."""
        if self.on_pace is not None and not self.is_settled:
            self.on_pace(is_behind)

    def settle(self, answer: InferResponse | Error) -> None:
        """Answer the caller, the first time it is called."""
        settle, self._settle = self._settle, None
        self.on_cancel = self.on_pace = None
        if settle is not None:
            deliver(settle, answer, self.request.model_name)


class _Level:
    """The requests of one priority: those in line, and behind them those that waited too long but may stay."""

    def __init__(self, policy: LevelPolicy, by_deadline: bool) -> None:
        self.policy = policy
        self.line: Line[Pending] = DeadlineLine() if by_deadline else ArrivalLine()
        self.delayed: Line[Pending] = ArrivalLine()

    def __len__(self) -> int:
        return len(self.line) + len(self.delayed)


class RequestQueue:
    """Serves levels of priority one after the other, and within a level first come or first due, up to a limit.

    Args:
        clock: tells when a request has waited too long.
        policy: how requests wait.
        on_leave: told of each request that leaves without having run, with the reason it was given.
        by_deadline: whether the earliest deadline of a level is served first, and not the first who came.
    """

    def __init__(
        self, clock: Clock, policy: QueuePolicy, on_leave: Callable[[Pending, Error], None], by_deadline: bool = False
    ) -> None:
        self.depth = 0
        self._clock = clock
        self._policy = policy
        self._on_leave = on_leave
        self._by_deadline = by_deadline
        self._levels: dict[int, _Level] = {}
        self._order: list[int] = []

    def __iter__(self) -> Iterator[Pending]:
        """Everybody who waits, in the order in which they run."""
        for number in self._order:
            level = self._levels[number]
            yield from level.line
            if level.delayed:
                yield from level.delayed

    def admit(self, pending: Pending) -> None:
        """Let a request into the line, until its deadline.

        Raises:
            Overloaded: the line of its level is full; nothing was kept.
            DeadlineExceeded: its deadline has passed already.
        """
        now = self._clock.now()
        name = pending.request.model_name
        if pending.due <= now:
            raise came_too_late(name)
        number = self._policy.level_of(pending.request.priority)
        level = self._level(number)
        if level.policy.max_size and len(level) >= level.policy.max_size:
            raise Overloaded(
                f"model '{name}': Exceeds maximum queue size of {level.policy.max_size} requests. "
                "Send fewer at once, add instances, or raise max_queue_size."
            )
        pending.level = number
        pending.queue = self
        pending.queued_at = now
        self._watch(pending, now)
        level.line.push(pending)
        self.depth += 1

    def take(self, count: int) -> list[Pending]:
        """Remove the head of the line to run it."""
        taken: list[Pending] = []
        while len(taken) < count:
            number = self._order[0]
            level = self._levels[number]
            taken += (level.line or level.delayed).pop(count - len(taken))
            self._forget_if_empty(number)
        self.depth -= count
        for pending in taken:
            if pending.timer is not None:
                pending.timer.cancel()
        return taken

    def head(self, count: int) -> list[Pending]:
        """The first who run, and stay in line."""
        return list(islice(self, count))

    def leave(self, pendings: Iterable[Pending]) -> None:
        """Remove those that have begun to run, but for those that left before."""
        for pending in pendings:
            self._remove(pending)

    @property
    def rows(self) -> int:
        """Of everybody who waits in line."""
        return sum(level.line.rows for level in self._levels.values())

    def rows_before(self, priority: int, due: float) -> int:
        """Rows that would run before a request of this priority and deadline, if it came now."""
        own = self._policy.level_of(priority)
        rows = 0
        for number in self._order:
            if number < own:
                rows += self._levels[number].line.rows
            elif number == own:
                rows += self._levels[number].line.rows_until(due)
        return rows

    def behind(self, priority: int, due: float) -> list[Pending]:
        """Those of its own level that a request of this priority and deadline would overtake, if it came now."""
        level = self._levels.get(self._policy.level_of(priority))
        return [] if level is None else level.line.behind(due)

    def cancel(self, pending: Pending) -> bool:
        """Take out a request whose caller left; False if it is running or settled."""
        return self.refuse(pending, cancelled(pending.request.model_name))

    def clear(self, reason: Error) -> None:
        """Tell everybody in line that nothing more will run."""
        for pending in list(self):
            self.refuse(pending, reason)

    def refuse_expired(self, count: int) -> bool:
        """Tell those at the head whose time is over, although no timer came to say so; False if there are none."""
        now = self._clock.now()
        expired = [pending for pending in self.head(count) if pending.due <= now]
        for pending in expired:
            self._expire(pending)
        return bool(expired)

    def refuse(self, pending: Pending, reason: Error) -> bool:
        """Take one out and tell it why; False if it does not wait here."""
        if not self._remove(pending):
            return False
        self._on_leave(pending, reason)
        pending.settle(reason)
        return True

    def _remove(self, pending: Pending) -> bool:
        level = self._levels.get(pending.level)
        if level is None or not (level.line.remove(pending) or level.delayed.remove(pending)):
            return False
        self.depth -= 1
        self._forget_if_empty(pending.level)
        if pending.timer is not None:
            pending.timer.cancel()
        return True

    def _level(self, number: int) -> _Level:
        level = self._levels.get(number)
        if level is None:
            level = self._levels[number] = _Level(self._policy.policy_of(number), self._by_deadline)
            insort(self._order, number)
        return level

    def _forget_if_empty(self, number: int) -> None:
        # There may be as many levels as the configuration likes; only the single line of one without is kept.
        if self._policy.levels and not self._levels[number]:
            del self._levels[number]
            self._order.remove(number)

    def _watch(self, pending: Pending, now: float) -> None:
        moments = [moment for moment in (pending.delay_at, pending.request.deadline) if moment is not None]
        if moments:
            seconds = max(min(moments) - now, LEAST_TIMEOUT_SECONDS)
            pending.timer = self._clock.call_later(seconds, self._on_time, pending)

    def _on_time(self, pending: Pending) -> None:
        now = self._clock.now()
        if pending.due <= now or pending.delay_at is None:
            self._expire(pending)
            return
        pending.delay_at = None
        level = self._levels[pending.level]
        if level.line.remove(pending):
            level.delayed.push(pending)
        self._watch(pending, now)

    def _expire(self, pending: Pending) -> None:
        self.refuse(pending, waited_too_long(pending.request.model_name, self._clock.now() - pending.queued_at))
