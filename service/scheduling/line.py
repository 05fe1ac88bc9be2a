"""Waiting lines of one level of priority: in the order of arrival, or of deadlines."""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Standing(Protocol):
    """What a line must know of who stands in it."""

    @property
    def rows(self) -> int: ...
    @property
    def due(self) -> float:
        """When it is of no use any more; infinity for never. It stays the same while it stands in a line."""


S = TypeVar("S", bound=Standing)


class Line(Protocol[S]):
    """Who waits, in the order in which they run.

    Attributes:
        rows: of all of them together.
    """

    rows: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[S]: ...

    def push(self, one: S) -> None: ...

    def pop(self, count: int) -> list[S]:
        """Take up to so many from the head."""

    def remove(self, one: S) -> bool:
        """Take one out wherever it stands; False if it does not."""

    def rows_until(self, due: float) -> int:
        """Rows of those that run before one with this deadline, if it came now."""

    def behind(self, due: float) -> list[S]:
        """Those that run after one with this deadline, if it came now."""


class ArrivalLine(Generic[S]):
    """First come, first served. Everything takes the same time however long the line is."""

    def __init__(self) -> None:
        self.rows = 0
        self._waiting: OrderedDict[S, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[S]:
        return iter(self._waiting)

    def push(self, one: S) -> None:
        self._waiting[one] = None
        self.rows += one.rows

    def pop(self, count: int) -> list[S]:
        taken = [self._waiting.popitem(last=False)[0] for _ in range(min(count, len(self._waiting)))]
        self.rows -= sum(one.rows for one in taken)
        return taken

    def remove(self, one: S) -> bool:
        if one not in self._waiting:
            return False
        del self._waiting[one]
        self.rows -= one.rows
        return True

    def rows_until(self, due: float) -> int:
        del due
        return self.rows

    def behind(self, due: float) -> list[S]:
        del due
        return []


class DeadlineLine(Generic[S]):
    """Earliest deadline first; those with the same one in the order of arrival.

    With equal objectives everybody joins at the end, where everything is fast.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._waiting: list[S] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[S]:
        return iter(self._waiting)

    def push(self, one: S) -> None:
        self._waiting.insert(self._place(one.due), one)
        self.rows += one.rows

    def pop(self, count: int) -> list[S]:
        taken = self._waiting[:count]
        del self._waiting[:count]
        self.rows -= sum(one.rows for one in taken)
        return taken

    def remove(self, one: S) -> bool:
        place = bisect_left(self._waiting, one.due, key=_due)
        while place < len(self._waiting) and self._waiting[place].due == one.due:
            if self._waiting[place] is one:
                del self._waiting[place]
                self.rows -= one.rows
                return True
            place += 1
        return False

    def rows_until(self, due: float) -> int:
        place = self._place(due)
        if place == len(self._waiting):
            return self.rows
        return sum(one.rows for one in self._waiting[:place])

    def behind(self, due: float) -> list[S]:
        return self._waiting[self._place(due) :]

    def _place(self, due: float) -> int:
        if not self._waiting or self._waiting[-1].due <= due:
            return len(self._waiting)
        return bisect_right(self._waiting, due, key=_due)


def _due(one: Standing) -> float:
    return one.due
