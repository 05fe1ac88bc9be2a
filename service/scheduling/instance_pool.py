"""Which instances are idle, and what the next one that is free begins by itself."""

from collections import deque
from collections.abc import Sequence

from service.scheduling.instance import Batch, Instance
from service.scheduling.occupancy import Occupancy
from service.scheduling.offer import Offer


class InstancePool:
    """Hands batches to instances. On the thread that owns the queue.

    Args:
        occupancy: learns here what each instance has.

    Attributes:
        offered: to the instance that is free first, which may have begun it; None for nothing.
    """

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        self._idle: deque[Instance] = deque()
        self._busy: set[Instance] = set()
        self._offer = Offer()
        self.offered: Batch | None = None

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    def add(self, instances: Sequence[Instance]) -> None:
        """Let instances that have nothing to do join."""
        self._idle.extend(instances)

    def take_idle(self) -> Instance:
        """The one that has been idle for longest; it is to be given a batch, or to be put back."""
        return self._idle.popleft()

    def put_back(self, instance: Instance) -> None:
        """It was taken, and there was nothing for it to do."""
        self._idle.append(instance)

    def first_end(self) -> float | None:
        """When the first of the instances was expected to be free; None if one is, or if nobody knows."""
        if self._idle or not self._occupancy.is_known:
            return None
        # Who computes at once, on this thread, takes nothing by itself.
        ends = (self._occupancy.ends_at(instance) for instance in self._busy if not instance.is_inline)
        return min(ends, default=None)

    def run(self, instance: Instance, batch: Batch) -> None:
        """Let an idle instance run a batch."""
        self._busy.add(instance)
        self._occupancy.started(instance, batch)
        instance.start(batch, self._offer)

    def offer(self, batch: Batch) -> None:
        """Let the first instance that is free begin a batch; nothing else is offered."""
        self.offered = batch
        self._offer.make(batch)

    def withdraw(self) -> bool:
        """Take back what is offered, if anything is; False if an instance has begun it, which `take_back` tells."""
        if self.offered is not None and self._offer.take() is None:
            return False
        self.offered = None
        return True

    def take_back(self, instance: Instance, batch: Batch) -> float:
        """An instance is through with a batch, and perhaps has begun another one.

        Returns:
            The seconds that it was taken.
        """
        seconds = self._occupancy.ended(instance, batch)
        if batch.followed_by is None:
            self._busy.remove(instance)
            self._idle.append(instance)
        else:
            self.offered = None
            self._occupancy.started(instance, batch.followed_by)
        return seconds
