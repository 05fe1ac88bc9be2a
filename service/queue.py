"""The bounded waiting line of one model version. Everything here happens on the one thread that owns it."""

import logging
from collections import deque
from collections.abc import Callable, Hashable

from enginehouse.errors import Cancelled, DeadlineExceeded, Error, Overloaded
from service.clock import Clock, Timer
from service.request import InferRequest, InferResponse, Settle

_log = logging.getLogger(__name__)

# An event loop may count in whole milliseconds, and would take less for nothing at all.
LEAST_TIMEOUT_SECONDS = 0.001


def deliver(settle: Settle, answer: InferResponse | Error, model: str) -> None:
    """Answer a caller; one that fails never hurts the others."""
    try:
        settle(answer)
    except Exception:
        # A closed transport may raise anything; the answer has nobody to go to.
        _log.exception("the caller of model '%s' could not take its answer", model)


class Pending:
    """A request on its way: admitted, perhaps running, not yet settled."""

    __slots__ = ("_settle", "queue", "queued_at", "request", "rows", "shape_key", "timer")

    def __init__(self, request: InferRequest, settle: Settle, rows: int, shape_key: Hashable) -> None:
        self.request = request
        self.rows = rows
        self.shape_key = shape_key
        self.queued_at = 0.0
        self.timer: Timer | None = None
        self.queue: RequestQueue | None = None
        self._settle: Settle | None = settle

    @property
    def is_settled(self) -> bool:
        return self._settle is None

    def cancel(self) -> None:
        """Leave the line because the caller left; what is running finishes unheard."""
        if self.queue is not None:
            self.queue.cancel(self)

    def settle(self, answer: InferResponse | Error) -> None:
        """Answer the caller, the first time it is called."""
        settle, self._settle = self._settle, None
        if settle is not None:
            deliver(settle, answer, self.request.model_name)


class RequestQueue:
    """First come, first served, up to a limit.

    Args:
        clock: tells when a request has waited too long.
        max_size: requests that may wait; 0 for no limit.
        on_leave: told of each request that leaves without having run, with the reason it was given.
    """

    def __init__(self, clock: Clock, max_size: int, on_leave: Callable[[Pending, Error], None]) -> None:
        self.waiting: deque[Pending] = deque()
        self._clock = clock
        self._max_size = max_size
        self._on_leave = on_leave

    def admit(self, pending: Pending) -> None:
        """Let a request into the line, until its deadline.

        Raises:
            Overloaded: the line is full; nothing was kept.
        """
        if self._max_size and len(self.waiting) >= self._max_size:
            raise Overloaded(
                f"model '{pending.request.model_name}': Exceeds maximum queue size of {self._max_size} requests. "
                "Send fewer at once, add instances, or raise max_queue_size."
            )
        pending.queue = self
        pending.queued_at = self._clock.now()
        if pending.request.deadline is not None:
            seconds = max(pending.request.deadline - pending.queued_at, LEAST_TIMEOUT_SECONDS)
            pending.timer = self._clock.call_later(seconds, self._expire, pending)
        self.waiting.append(pending)

    def take(self, count: int) -> list[Pending]:
        """Remove the head of the line to run it."""
        batch = [self.waiting.popleft() for _ in range(count)]
        for pending in batch:
            if pending.timer is not None:
                pending.timer.cancel()
        return batch

    def cancel(self, pending: Pending) -> bool:
        """Take out a request whose caller left; False if it is running or settled."""
        return self._leave(pending, Cancelled(f"the request to model '{pending.request.model_name}' was cancelled."))

    def clear(self, reason: Error) -> None:
        """Tell everybody in line that nothing more will run."""
        while self.waiting:
            self._leave(self.waiting[0], reason)

    def _expire(self, pending: Pending) -> None:
        waited_ms = (self._clock.now() - pending.queued_at) * 1000
        name = pending.request.model_name
        self._leave(
            pending, DeadlineExceeded(f"model '{name}': Request timeout expired after {waited_ms:.0f} ms in queue.")
        )

    def _leave(self, pending: Pending, reason: Error) -> bool:
        try:
            self.waiting.remove(pending)
        except ValueError:
            return False
        if pending.timer is not None:
            pending.timer.cancel()
        self._on_leave(pending, reason)
        pending.settle(reason)
        return True
