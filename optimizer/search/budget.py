"""How long a search may take."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """A deadline on a monotonic clock. What is begun is finished; nothing optional is begun after it."""

    deadline: float
    now: Callable[[], float] = monotonic

    @property
    def is_spent(self) -> bool:
        return self.now() >= self.deadline


def budget_of(seconds: float, now: Callable[[], float] = monotonic) -> Budget:
    """A budget that begins now; infinite seconds never end."""
    return Budget(now() + seconds, now)
