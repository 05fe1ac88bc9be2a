"""How often something happened, and how long it took."""

from dataclasses import dataclass


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    @property
    def nanoseconds(self) -> int:
        return int(self.seconds * 1e9)
