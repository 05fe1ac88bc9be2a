"""The line at an ensemble's entry: level by level of priority, and within one first come, first served."""

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class EntryLine(Generic[T]):
    """Who waits, each once; lower levels go first."""

    def __init__(self) -> None:
        self._levels: dict[int, dict[T, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def __iter__(self) -> Iterator[T]:
        """In the order in which they will go."""
        for level in sorted(self._levels):
            yield from self._levels[level]

    def add(self, level: int, item: T) -> None:
        """Let one wait behind all others of its level; a higher level goes later."""
        self._levels.setdefault(level, {})[item] = None

    def take(self) -> T:
        """Let the first one go; raises `IndexError` if nobody waits."""
        for item in self:
            self.remove(item)
            return item
        raise IndexError("nobody waits.")

    def remove(self, item: T) -> None:
        """Take one out, wherever it stands; raises `KeyError` if it does not wait."""
        level = next((level for level, items in self._levels.items() if item in items), None)
        if level is None:
            raise KeyError(item)
        del self._levels[level][item]
        if not self._levels[level]:
            del self._levels[level]
