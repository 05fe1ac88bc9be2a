"""What instances have to do, and when each is expected to be through with it."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from service.clock import Clock
from service.scheduling.instance import Batch, Instance


@dataclass(slots=True, frozen=True)
class _Run:
    """A batch that an instance has, and when it is expected back."""

    started_at: float
    ends_at: float

    def free_at(self, now: float) -> float:
        """Who has overrun is expected to overrun as much again."""
        return self.ends_at if self.ends_at > now else 2 * now - self.ends_at


class Occupancy:
    """The batches that each instance has: the one that runs, and perhaps one that is to follow it.

    Args:
        clock: of the thread that owns the queue.
        foretell: the seconds that a batch of so many rows takes; without it, as long as the last one took, and if it
            is larger more in proportion.
    """

    def __init__(self, clock: Clock, foretell: Callable[[int], float] | None = None) -> None:
        self._clock = clock
        self._last_seconds = 0.0
        self._last_rows = 1
        self._foretell = foretell or self._as_the_last
        self._runs: dict[Instance, deque[_Run]] = {}

    def __len__(self) -> int:
        """Instances that have something to do."""
        return len(self._runs)

    @property
    def is_known(self) -> bool:
        """Whether any batch was answered yet; before that, what is foretold was never seen here."""
        return self._last_seconds > 0

    def free_at(self, instance: Instance) -> float:
        """When an instance is expected to be free; not before now."""
        now = self._clock.now()
        return _free_at(self._runs[instance], now) if instance in self._runs else now

    def free_times(self, now: float) -> list[float]:
        """When each of those that are busy is expected to be free, ascending."""
        return sorted(_free_at(runs, now) for runs in self._runs.values())

    def started(self, instance: Instance, batch: Batch) -> None:
        """An instance was given a batch, at once or behind the one that it has."""
        starts_at = self.free_at(instance)
        run = _Run(starts_at, starts_at + self._foretell(batch.rows))
        self._runs.setdefault(instance, deque()).append(run)

    def ended(self, instance: Instance, batch: Batch) -> float:
        """An instance is through with the first batch that it has.

        Returns:
            The seconds that it was taken; where nothing followed at once, with those that passed until that was heard.
        """
        runs = self._runs[instance]
        runs.popleft()
        if runs:
            free_at = batch.ended_at
            runs[0] = _Run(free_at, free_at + runs[0].ends_at - runs[0].started_at)
        else:
            free_at = self._clock.now()
            del self._runs[instance]
        seconds = free_at - batch.started_at
        if batch.answers:
            self._last_seconds, self._last_rows = seconds, max(1, batch.rows)
        return seconds

    def _as_the_last(self, rows: int) -> float:
        """Rather too long than too short: what is handed over too early cannot go elsewhere any more."""
        return self._last_seconds * max(1.0, rows / self._last_rows)


def _free_at(runs: Iterable[_Run], now: float) -> float:
    """When the first of them has ended, and then the others, one after the other."""
    first, *others = runs
    return first.free_at(now) + sum(run.ends_at - run.started_at for run in others)
