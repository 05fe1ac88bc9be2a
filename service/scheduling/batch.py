"""The pure choice of what runs next: a function of the waiting line, the policy and the time."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol


class Waiting(Protocol):
    """What the choice must know of a request in the line."""

    @property
    def rows(self) -> int: ...
    @property
    def shape_key(self) -> Hashable: ...
    @property
    def queued_at(self) -> float: ...


@dataclass(slots=True, frozen=True)
class BatchPolicy:
    """How batches are formed.

    Attributes:
        max_batch_rows: rows that may run together; 0 for a model without a batch dimension.
        preferred_rows: sizes that run at once, without waiting for more, in ascending order.
        max_queue_delay_seconds: how long the oldest request may wait for company while an instance is idle.
        is_dynamic: whether requests are joined at all; if not, each runs alone.
        preserves_ordering: whether batches are answered in the order in which they began, however many run at once.
    """

    max_batch_rows: int
    preferred_rows: tuple[int, ...] = ()
    max_queue_delay_seconds: float = 0.0
    is_dynamic: bool = True
    preserves_ordering: bool = False

    @property
    def full_rows(self) -> int:
        """Rows that fill a batch; 1 where each request runs alone."""
        return max(1, self.max_batch_rows) if self.is_dynamic else 1


@dataclass(slots=True, frozen=True)
class Run:
    """Take this many requests from the head of the line and run them."""

    count: int


@dataclass(slots=True, frozen=True)
class Wait:
    """Nothing runs before this many seconds have passed, unless more arrives."""

    seconds: float


def schedule(waiting: Iterable[Waiting], policy: BatchPolicy, now: float) -> Run | Wait:
    """Choose what runs now, or how long to wait for company; an instance is idle and someone is waiting.

    The head of the line always runs next, so nobody is overtaken. A batch takes requests of one shape, as many as
    fit. It runs at once if it reaches a preferred size (and is cut there), if it cannot grow, or if its oldest member
    has waited long enough.
    """
    if not policy.is_dynamic or policy.max_batch_rows == 0:
        return Run(1)
    count, preferred_count, can_grow, queued_at = _fit(waiting, policy)
    if preferred_count:
        return Run(preferred_count)
    patience = queued_at + policy.max_queue_delay_seconds - now
    return Wait(patience) if can_grow and patience > 0 else Run(count)


def _fit(waiting: Iterable[Waiting], policy: BatchPolicy) -> tuple[int, int, bool, float]:
    """Measure the longest batch at the head of the line.

    Returns:
        Its requests, the requests up to the largest preferred size it passes (0 for none), whether a
        later arrival could still join it, and when its first member was queued.
    """
    count = rows = preferred_count = 0
    key: Hashable = None
    queued_at = 0.0
    for entry in waiting:
        if count == 0:
            key, queued_at = entry.shape_key, entry.queued_at
        elif entry.shape_key != key or rows + entry.rows > policy.max_batch_rows:
            return count, preferred_count, False, queued_at
        count += 1
        rows += entry.rows
        if rows in policy.preferred_rows:
            preferred_count = count
        if rows >= policy.max_batch_rows:
            return count, preferred_count, False, queued_at
    return count, preferred_count, True, queued_at
