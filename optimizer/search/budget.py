"""How long a search may take."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic


@dataclass(frozen=True, slots=True, order=True)
class Budget:
    """A deadline on a monotonic clock; the shorter is the lesser. What is begun is finished, and nothing after it."""

    deadline: float
    now: Callable[[], float] = field(default=monotonic, compare=False)

    @property
    def is_spent(self) -> bool:
        return self.now() >= self.deadline


def budget_of(seconds: float, now: Callable[[], float] = monotonic) -> Budget:
    """A budget that begins now; infinite seconds never end."""
    return Budget(now() + seconds, now)
