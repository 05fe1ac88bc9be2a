"""Which instances are idle, and what waits behind a batch that runs."""

import math
from collections import deque
from collections.abc import Callable, Sequence

from enginehouse.errors import Error
from service.clock import Clock, Timer
from service.refusals import cancelled, waited_too_long
from service.scheduling.instance import Batch, Instance
from service.scheduling.occupancy import Occupancy
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS, Pending


class InstancePool:
    """Hands batches to instances. On the thread that owns the queue.

    Args:
        clock: of the thread that owns the queue.
        occupancy: learns here what each instance has.
        on_leave: told of each request that leaves while its batch waits behind another one, with the reason.
    """

    def __init__(self, clock: Clock, occupancy: Occupancy, on_leave: Callable[[Pending, Error], None]) -> None:
        self._clock = clock
        self._occupancy = occupancy
        self._on_leave = on_leave
        self._size = 0
        self._idle: deque[Instance] = deque()
        self._busy: set[Instance] = set()
        self._behind: dict[Instance, Batch] = {}
        self._timers: dict[Instance, Timer] = {}

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    def add(self, instances: Sequence[Instance]) -> None:
        """Let instances that have nothing to do join."""
        self._size += len(instances)
        self._idle.extend(instances)

    def take_idle(self) -> Instance:
        """The one that has been idle for longest; it is to be given a batch, or to be put back."""
        return self._idle.popleft()

    def put_back(self, instance: Instance) -> None:
        """It was taken, and there was nothing for it to do."""
        self._idle.append(instance)

    def next_free(self) -> tuple[Instance, float] | None:
        """The only instance, and when it is expected to be free; None if that is unknown, or it has its next batch.

        None also of several: what waits behind one that hangs could have run on another.
        """
        if self._size != 1 or not self._busy or self._behind or not self._occupancy.is_known:
            return None
        (instance,) = self._busy
        return None if instance.is_inline else (instance, self._occupancy.free_at(instance))

    def run(self, instance: Instance, batch: Batch) -> None:
        """Let an instance run a batch: now, or right behind the one that it has."""
        self._occupancy.started(instance, batch)
        if instance not in self._busy:
            self._busy.add(instance)
            instance.start(batch)
            return
        self._behind[instance] = batch
        for pending in batch.pendings:
            pending.queue = self
        self._watch(instance, batch)
        instance.follow(batch)

    def take_back(self, instance: Instance, batch: Batch) -> float:
        """An instance is through with its first batch.

        Returns:
            The seconds that it was taken.
        """
        begun = self._behind.pop(instance, None)
        if begun is None:
            self._busy.remove(instance)
            self._idle.append(instance)
        else:
            for pending in begun.pendings:
                pending.queue = None
            if timer := self._timers.pop(instance, None):
                timer.cancel()
        return self._occupancy.ended(instance, batch)

    def cancel(self, pending: Pending) -> bool:
        """Tell a request whose caller left while its batch waits; False if it was told before."""
        if pending.is_settled:
            return False
        self._tell(pending, cancelled(pending.request.model_name))
        return True

    def _watch(self, instance: Instance, batch: Batch) -> None:
        """Deadlines go on while a batch waits, also behind one that hangs."""
        due = min((pending.due for pending in batch.pendings if not pending.is_settled), default=math.inf)
        if due < math.inf:
            seconds = max(due - self._clock.now(), LEAST_TIMEOUT_SECONDS)
            self._timers[instance] = self._clock.call_later(seconds, self._on_time, instance, batch)

    def _on_time(self, instance: Instance, batch: Batch) -> None:
        now = self._clock.now()
        for pending in batch.pendings:
            if pending.due <= now and not pending.is_settled:
                self._tell(pending, waited_too_long(pending.request.model_name, now - pending.queued_at))
        self._watch(instance, batch)

    def _tell(self, pending: Pending, reason: Error) -> None:
        """Its batch runs without it, unless it has begun meanwhile; then nobody hears what becomes of it there."""
        self._on_leave(pending, reason)
        pending.settle(reason)
