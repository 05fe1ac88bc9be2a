"""Quantiles of what was measured lately, in bounded memory and each within one percent of the true one.

DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
VLDB 2019): values are counted in buckets whose bounds grow by a constant factor. There is one sketch for each slice of
the window; they are added up when somebody asks.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

RELATIVE_ERROR = 0.01
WINDOW_SECONDS = 60.0
SLICES = 5

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
# Whatever is smaller counts as nothing, so that the number of buckets has a bound.
_SMALLEST = 1e-6
_NOTHING = -(1 << 30)


class RecentQuantiles:
    """Takes values of zero and above.

    Attributes:
        count: of all values there ever were, not only of those in the window.
        total: their sum.

    Args:
        now: tells the time in seconds.
    """

    __slots__ = ("_now", "_slices", "count", "total")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self.total = 0.0
        self._now = now
        self._slices: dict[int, Counter[int]] = {}

    def observe(self, value: float) -> None:
        self.count += 1
        self.total += value
        number = self._slice_now()
        counts = self._slices.get(number)
        if counts is None:
            self._forget_before(number)
            counts = self._slices[number] = Counter()
        counts[math.ceil(math.log(value) / _LOG_GROWTH) if value > _SMALLEST else _NOTHING] += 1

    def at(self, ranks: Sequence[float]) -> list[float]:
        """The quantile at each rank between 0 and 1; not a number where nothing was measured lately."""
        self._forget_before(self._slice_now())
        counts: Counter[int] = sum(self._slices.values(), Counter())
        return [_quantile(counts, rank) for rank in ranks]

    def _slice_now(self) -> int:
        return int(self._now() * SLICES / WINDOW_SECONDS)

    def _forget_before(self, number: int) -> None:
        for old in [one for one in self._slices if one <= number - SLICES]:
            del self._slices[old]


def _quantile(counts: Counter[int], rank: float) -> float:
    below = 0
    last = rank * (counts.total() - 1)
    for bucket in sorted(counts):
        below += counts[bucket]
        if below > last:
            return 0.0 if bucket == _NOTHING else 2 * _GROWTH**bucket / (_GROWTH + 1)
    return math.nan
