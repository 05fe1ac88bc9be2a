"""Where the time of one version's requests went lately, in microseconds, as Triton's summaries name it."""

import time
from collections.abc import Callable

from service.request import Timings
from service.statistics.quantiles import RecentQuantiles


class LatencySummaries:
    """One summary for each part of a request's way. Only the thread that owns the queue writes.

    Args:
        now: tells the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.request, self.queue, self.compute_input, self.compute_infer, self.compute_output = (
            RecentQuantiles(now) for _ in range(5)
        )
        self.cache_hit, self.cache_miss = RecentQuantiles(now), RecentQuantiles(now)

    def count_success(self, timings: Timings, total_seconds: float) -> None:
        """A request that its model answered."""
        self.request.observe(total_seconds * 1e6)
        self.queue.observe(timings.queue * 1e6)
        self.compute_input.observe(timings.compute_input * 1e6)
        self.compute_infer.observe(timings.compute_infer * 1e6)
        self.compute_output.observe(timings.compute_output * 1e6)

    def count_cache_hit(self, looked_up_seconds: float, total_seconds: float) -> None:
        """A request that the cache answered: it waited for nothing and computed nothing."""
        self.cache_hit.observe(looked_up_seconds * 1e6)
        self.request.observe(total_seconds * 1e6)
        self.queue.observe(0.0)

    def count_cache_miss(self, seconds: float) -> None:
        """What looking an answer up in vain and keeping the new one took."""
        self.cache_miss.observe(seconds * 1e6)
