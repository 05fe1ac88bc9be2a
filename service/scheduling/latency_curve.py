"""How long an engine takes for so many rows: first from the evidence, then from what is measured while it serves.

Runs of about the same size (up to a power of two) share a window of the latest; its median and its mean size are one
point of the curve, which is linear between points. A size that has not been measured follows the nearest that has, in
the shape that the evidence shows. What runs take beyond the curve is one more window: a high quantile, by nearest
rank, of measured over foretold. Medians and ranks, not averages: one stall changes nothing, and a machine that became
slower or faster is believed after half a window of runs.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enginehouse.evidence import Evidence

# A run beyond it makes late only those of its batch that were at the edge of their deadlines. Much above it there are
# stalls of the machine, which no choice of a batch avoids: to plan for them would refuse what nearly always is in time.
QUANTILE = 0.9
MAX_SPREAD = 2.0
WINDOW = 128

# Below what any clock tells; nothing takes no time.
_LEAST_SECONDS = 1e-7
# Runs of one size that make its median.
_SIZE_WINDOW = 16
# After so many runs of others, what a size took says nothing about today: a size that did not run through a slow spell
# would be taken for faster than the one that did, and one that did for slower for as long as it is not chosen again.
_FORGOTTEN_AFTER = 64
# Fewer runs than this have no tail to speak of; until then, they are taken to vary by a fifth.
_FEW = 10
_FIRST_SPREAD = 1.2
# It takes as long as some runs of small models do.
_SPREAD_EVERY = 8


@dataclass(slots=True, frozen=True)
class MeasuredPoint:
    """What was measured before, elsewhere: half of the runs of so many rows took less, and one in a hundred more."""

    rows: int
    median_seconds: float
    p99_seconds: float


class _Size:
    """The latest runs of about the same size."""

    def __init__(self) -> None:
        self.rows = 0.0
        self.seconds = 0.0
        self.latest = 0
        self._runs: deque[tuple[int, float]] = deque(maxlen=_SIZE_WINDOW)

    def add(self, rows: int, seconds: float, number: int) -> None:
        """Take in a run; `number` counts the runs of all sizes."""
        self.latest = number
        self._runs.append((rows, seconds))
        self.rows = sum(rows for rows, _ in self._runs) / len(self._runs)
        self.seconds = sorted(seconds for _, seconds in self._runs)[(len(self._runs) - 1) // 2]


class LatencyCurve:
    """Foretells the seconds of a run.

    Args:
        max_rows: the most that ever run together.
        measured: before, in any order; empty if nothing is known.

    Attributes:
        sizes: worth comparing, ascending; the last is the largest there is.
        spread: all but a few runs take no more than this many times what is typical.
    """

    def __init__(self, max_rows: int, measured: Iterable[MeasuredPoint] = ()) -> None:
        points = sorted((point for point in measured if point.median_seconds > 0), key=lambda point: point.rows)
        self.sizes: Sequence[int] = sorted({max_rows, *(1 << power for power in range((max_rows - 1).bit_length()))})
        self._before = [(float(point.rows), point.median_seconds) for point in points]
        _never_fall(self._before)
        self._sizes: dict[int, _Size] = {}
        self._points = self._before
        self._foretold: dict[int, float] = {}
        spreads = [point.p99_seconds / point.median_seconds for point in points]
        self.spread = min(max([1.0, *spreads]), MAX_SPREAD) if spreads else _FIRST_SPREAD
        self._runs: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._count = 0

    @property
    def is_known(self) -> bool:
        """Whether anything can be foretold."""
        return bool(self._points)

    def typical(self, rows: int) -> float:
        """The seconds that half of the runs of so many rows take; 0 while nothing is known."""
        found = self._foretold.get(rows)
        if found is None:
            found = self._foretold[rows] = _value_at(self._points, rows) if self._points else 0.0
        return found

    def seconds(self, rows: int) -> float:
        """The seconds that all but a few runs of so many rows take; 0 while nothing is known."""
        return self.typical(rows) * self.spread

    def observe(self, rows: int, seconds: float, is_afresh: bool = False) -> None:
        """Learn from a run that succeeded; with `is_afresh` it says more than everything before."""
        if is_afresh:
            self._sizes.clear()
            self._runs.clear()
            self.spread = _FIRST_SPREAD
        seconds = max(seconds, _LEAST_SECONDS)
        self._count += 1
        self._sizes.setdefault((rows - 1).bit_length(), _Size()).add(rows, seconds, self._count)
        oldest = self._count - _FORGOTTEN_AFTER
        self._sizes = {number: size for number, size in self._sizes.items() if size.latest > oldest}
        self._points = self._all_points()
        self._foretold.clear()
        self._runs.append((rows, seconds))
        if len(self._runs) >= _FEW and self._count % _SPREAD_EVERY == 0:
            # Against the curve as it is now: a machine that became slower does not also vary more.
            ratios = sorted(seconds / self.typical(rows) for rows, seconds in self._runs)
            self.spread = min(max(1.0, ratios[_rank(len(ratios))]), MAX_SPREAD)

    def _all_points(self) -> list[tuple[float, float]]:
        """Measured points, and between them and beyond what the evidence says, moved to where they are."""
        measured = {number: (size.rows, size.seconds) for number, size in self._sizes.items()}
        points = list(measured.values())
        for rows, seconds in self._before:
            number = int(rows - 1).bit_length()
            if number not in measured:
                at, found = measured[min(measured, key=lambda other: abs(other - number))]
                points.append((rows, seconds * found / _value_at(self._before, at)))
        points.sort()
        _never_fall(points)
        return points


def points_from_evidence(evidence: Evidence, candidate: str) -> list[MeasuredPoint]:
    """The curve of one candidate; empty if it was not measured."""
    for record in evidence.candidates:
        if record.name == candidate:
            return [MeasuredPoint(point.batch, point.median_ms / 1000, point.p99_ms / 1000) for point in record.latency]
    return []


def _never_fall(points: list[tuple[float, float]]) -> None:
    """Fewer rows take no longer: where the noise says otherwise, the larger size is right, which runs under load."""
    for place in range(len(points) - 2, -1, -1):
        points[place] = (points[place][0], min(points[place][1], points[place + 1][1]))


def _rank(count: int) -> int:
    """The place of the high quantile in so many sorted values."""
    return math.ceil(QUANTILE * count) - 1


def _value_at(points: Sequence[tuple[float, float]], rows: float) -> float:
    """Linear between points; below the first as long as it; beyond the last along the last two, at most in proportion.

    With a single point every size takes as long: an estimate too low is corrected by the first run, one too high would
    keep that size from ever running.
    """
    place = bisect_left(points, rows, key=lambda point: point[0])
    if place == 0 or len(points) == 1:
        return points[0][1]
    place = min(place, len(points) - 1)
    (low, low_seconds), (high, high_seconds) = points[place - 1 : place + 1]
    if high == low:
        return high_seconds
    value = low_seconds + (high_seconds - low_seconds) * (rows - low) / (high - low)
    return min(value, high_seconds * rows / high) if rows > high else value
