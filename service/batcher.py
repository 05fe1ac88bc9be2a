"""Brings waiting requests and idle instances together, and settles what ran."""

from collections import deque
from collections.abc import Callable, Sequence

from enginehouse.errors import Error
from service.batch import BatchPolicy, Run, schedule
from service.clock import Clock, Timer
from service.instance import Batch, Instance
from service.queue import Pending, RequestQueue
from service.scheduler import Hooks


class Batcher:
    """Work-conserving: with an idle instance nobody waits, unless the policy asks for company.

    Everything here runs on the thread that owns the queue. Requests that arrive in one iteration of its loop are
    looked at together, once.

    Args:
        policy: how batches are formed.
        max_queue_size: requests that may wait; 0 for any number.
        clock: of the thread that owns the queue.
        hooks: told of finished batches, and of requests that leave without having run.
    """

    def __init__(self, policy: BatchPolicy, max_queue_size: int, clock: Clock, hooks: Hooks) -> None:
        self._queue = RequestQueue(clock, max_queue_size, self._on_leave)
        self._policy = policy
        self._clock = clock
        self._hooks = hooks
        self._idle: deque[Instance] = deque()
        self._running: dict[int, Batch] = {}
        self._is_flush_due = False
        self._timer: Timer | None = None
        self._on_quiet: Callable[[], None] | None = None

    @property
    def depth(self) -> int:
        return len(self._queue.waiting)

    def add_instances(self, instances: Sequence[Instance]) -> None:
        self._idle.extend(instances)

    def admit(self, pending: Pending) -> None:
        """Queue a request; raises `Overloaded` when the line is full."""
        self._queue.admit(pending)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._clock.call_soon(self._flush)

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nobody waits and nothing runs."""
        self._on_quiet = callback
        self._tell_if_quiet()

    def running(self) -> list[Pending]:
        """Requests that an instance has and did not give back yet."""
        return [pending for batch in self._running.values() for pending in batch.pendings]

    def clear(self, reason: Error) -> None:
        """Tell everybody in line that nothing more will run."""
        self._queue.clear(reason)

    def on_done(self, instance: Instance, batch: Batch) -> None:
        """Take a finished batch back: the instance gets its next one before the callers hear of this one."""
        del self._running[id(batch)]
        self._idle.append(instance)
        self._start_batches()
        self._hooks.settle_batch(batch)
        self._tell_if_quiet()

    def _on_leave(self, pending: Pending, reason: Error) -> None:
        self._hooks.on_leave(pending, reason)
        self._clock.call_soon(self._tell_if_quiet)

    def _flush(self) -> None:
        self._is_flush_due = False
        self._start_batches()

    def _start_batches(self) -> None:
        waiting = self._queue.waiting
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while waiting and self._idle:
            now = self._clock.now()
            choice = schedule(waiting, self._policy, now)
            if not isinstance(choice, Run):
                self._timer = self._clock.call_later(choice.seconds, self._flush)
                return
            pendings = self._queue.take(choice.count)
            batch = Batch(pendings, sum(pending.rows for pending in pendings), now)
            self._running[id(batch)] = batch
            self._idle.popleft().start(batch)

    def _tell_if_quiet(self) -> None:
        if self._on_quiet is not None and not self._running and not self._queue.waiting:
            callback, self._on_quiet = self._on_quiet, None
            callback()
