"""Which instances are idle, and which of the others is free next."""

import math
from collections import deque
from collections.abc import Callable, Sequence

from service.clock import Clock, Timer
from service.scheduling.instance import Batch, Instance
from service.scheduling.occupancy import Occupancy
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS, Pending


class InstancePool:
    """Hands batches to instances. On the thread that owns the queue.

    Args:
        clock: of the thread that owns the queue.
        occupancy: learns here what each instance has.
        expire: told of a request whose deadline passes while its batch waits behind another one.
    """

    def __init__(self, clock: Clock, occupancy: Occupancy, expire: Callable[[Pending], None]) -> None:
        self._clock = clock
        self._occupancy = occupancy
        self._expire = expire
        self._idle: deque[Instance] = deque()
        self._unfollowed: set[Instance] = set()
        self._timers: dict[Instance, Timer] = {}

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    def add(self, instances: Sequence[Instance]) -> None:
        """Let instances that have nothing to do join."""
        self._idle.extend(instances)

    def take_idle(self) -> Instance:
        """The one that has been idle for longest; it is to be given a batch, or to be added again."""
        return self._idle.popleft()

    def next_free(self) -> tuple[Instance, float] | None:
        """Who is free next of those whose batch nothing follows yet, and when; None if nobody can tell."""
        candidates = [instance for instance in self._unfollowed if not instance.is_inline]
        if not candidates or not self._occupancy.is_known:
            return None
        instance = min(candidates, key=self._occupancy.free_at)
        return instance, self._occupancy.free_at(instance)

    def run(self, instance: Instance, batch: Batch) -> None:
        """Let an instance run a batch: now, or right behind the one that it has."""
        self._occupancy.started(instance, batch)
        if instance not in self._unfollowed:
            self._unfollowed.add(instance)
            instance.start(batch)
            return
        self._unfollowed.remove(instance)
        self._watch(instance, batch)
        instance.follow(batch)

    def take_back(self, instance: Instance, batch: Batch) -> float:
        """An instance is through with its first batch.

        Returns:
            The seconds that it was taken.
        """
        if instance in self._unfollowed:
            self._unfollowed.remove(instance)
            self._idle.append(instance)
        else:
            self._unfollowed.add(instance)
            if timer := self._timers.pop(instance, None):
                timer.cancel()
        return self._occupancy.ended(instance, batch)

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
                self._expire(pending)
        self._watch(instance, batch)
