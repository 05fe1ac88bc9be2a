"""When each instance is expected to be through with what it runs."""

from collections.abc import Callable

from service.clock import Clock
from service.scheduling.instance import Batch, Instance


class Occupancy:
    """The batch that each busy instance runs.

    Args:
        clock: of the thread that owns the queue.
        foretell: the seconds that a batch of so many rows takes; without it, as long as the last one took, and if it
            is smaller less in proportion.
    """

    def __init__(self, clock: Clock, foretell: Callable[[int], float] | None = None) -> None:
        self._clock = clock
        self._last_seconds = 0.0
        self._last_rows = 1
        self._foretell = foretell or self._as_the_last
        self._ends_at: dict[Instance, float] = {}

    def __len__(self) -> int:
        """Instances that have something to do."""
        return len(self._ends_at)

    @property
    def is_known(self) -> bool:
        """Whether any batch was answered yet; before that, what is foretold was never seen here."""
        return self._last_seconds > 0

    def ends_at(self, instance: Instance) -> float:
        """When a busy instance was expected to be free, which may have passed."""
        return self._ends_at[instance]

    def free_times(self, now: float) -> list[float]:
        """When each of those that are busy is expected to be free, ascending; none before now.

        Who has overrun is expected to overrun as much again.
        """
        return sorted(end if end > now else 2 * now - end for end in self._ends_at.values())

    def started(self, instance: Instance, batch: Batch) -> None:
        """An instance runs a batch since that was started."""
        self._ends_at[instance] = batch.started_at + self._foretell(batch.rows)

    def ended(self, instance: Instance, batch: Batch) -> float:
        """An instance is through with its batch.

        Returns:
            The seconds that it was taken; where nothing followed at once, with those that passed until that was heard.
        """
        del self._ends_at[instance]
        free_at = self._clock.now() if batch.followed_by is None else batch.ended_at
        seconds = free_at - batch.started_at
        if batch.answers:
            self._last_seconds, self._last_rows = seconds, max(1, batch.rows)
        return seconds

    def _as_the_last(self, rows: int) -> float:
        """Rather too short than too long: what is offered too early can be taken back."""
        return self._last_seconds * min(1.0, rows / self._last_rows)
