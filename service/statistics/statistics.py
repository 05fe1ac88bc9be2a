"""Counters and histograms of one model version, written where a request ends, read by metrics and the protocol."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from enginehouse.errors import Error
from service.request import InferRequest, Timings
from service.scheduling.computation import Execution
from service.statistics.calibration_drift import CalibrationDrift
from service.statistics.duration import Duration
from service.statistics.latency_summaries import LatencySummaries
from service.statistics.response_statistics import ResponseStatistics
from service.status import status_of

FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

# Seconds: from what an inline model takes to what a person waits for.
DURATION_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """Counts per bucket, each up to and including its bound; the last bucket takes the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class ModelStatistics:
    """All that is counted for one model version. Only the thread that owns the queue writes.

    Attributes:
        summaries: quantiles of the latest requests; None where nobody asked for them.
        first_response: milliseconds to the first response; None where nobody asked for it.
        drift: how far inputs leave the calibrated ranges; None for a version without such ranges.
        responses: of a decoupled model; any thread may count there.
    """

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.inference_count = 0
        self.execution_count = 0
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.cache_hit = Duration()
        self.cache_miss = Duration()
        self.failures = dict.fromkeys(FAILURE_REASONS, 0)
        self.batches: dict[int, BatchStatistics] = {}
        self.request_histogram = Histogram(DURATION_BUCKETS)
        self.decode_histogram = Histogram(DURATION_BUCKETS)
        self.encode_histogram = Histogram(DURATION_BUCKETS)
        self.queue_histogram = Histogram(DURATION_BUCKETS)
        self.compute_histogram = Histogram(DURATION_BUCKETS)
        self.rows_histogram = Histogram(ROW_BUCKETS)
        self.summaries: LatencySummaries | None = None
        self.first_response: Histogram | None = None
        self.drift: CalibrationDrift | None = None
        self.responses = ResponseStatistics()

    def summarize(self) -> None:
        """Keep quantiles from now on."""
        self.summaries = self.summaries or LatencySummaries()

    def measure_first_response(self, buckets_ms: Sequence[float]) -> None:
        """Keep a histogram of first responses from now on; other bounds than before begin a new one."""
        if self.first_response is None or self.first_response.bounds != tuple(buckets_ms):
            self.first_response = Histogram(buckets_ms)

    def count_batch(self, execution: Execution) -> None:
        """An execution that succeeded."""
        self.execution_count += 1
        self.rows_histogram.observe(execution.rows)
        self.compute_histogram.observe(execution.seconds)
        batch = self.batches.get(execution.rows)
        if batch is None:
            batch = self.batches[execution.rows] = BatchStatistics()
        batch.compute_input.add(execution.join_seconds)
        batch.compute_infer.add(execution.infer_seconds)
        batch.compute_output.add(execution.split_seconds)

    def count_success(self, rows: int, timings: Timings, total_seconds: float, now_ms: int) -> None:
        """A request that was answered with outputs."""
        self.last_inference_ms = now_ms
        self.inference_count += rows
        self.success.add(total_seconds)
        self.queue.add(timings.queue)
        self.compute_input.add(timings.compute_input)
        self.compute_infer.add(timings.compute_infer)
        self.compute_output.add(timings.compute_output)
        self.request_histogram.observe(total_seconds)
        self.decode_histogram.observe(timings.decode)
        self.queue_histogram.observe(timings.queue)
        if self.summaries is not None:
            self.summaries.count_success(timings, total_seconds)

    def count_encode(self, seconds: float) -> None:
        """The transport wrote an answer."""
        self.encode_histogram.observe(seconds)

    def count_cache_hit(self, looked_up_seconds: float, total_seconds: float) -> None:
        """A request that was answered without its model: a success that waited for nothing and computed nothing."""
        self.cache_hit.add(looked_up_seconds)
        self.success.add(total_seconds)
        self.queue.add(0.0)
        self.request_histogram.observe(total_seconds)
        self.queue_histogram.observe(0.0)
        if self.summaries is not None:
            self.summaries.count_cache_hit(looked_up_seconds, total_seconds)

    def count_cache_miss(self, seconds: float) -> None:
        """What looking an answer up in vain and keeping the new one took."""
        self.cache_miss.add(seconds)
        if self.summaries is not None:
            self.summaries.count_cache_miss(seconds)

    def count_failed(self, request: InferRequest, reason: Error, now: float) -> None:
        """A request that was answered with an error, or left; `now` in the seconds of its `received_at`."""
        seconds = max(0.0, now - request.received_at) if request.received_at else 0.0
        self.count_failure(status_of(reason).failure_reason, seconds)

    def count_failure(self, reason: str, seconds: float, count: int = 1) -> None:
        """Requests that were answered with an error, or left; `reason` is one of `FAILURE_REASONS`."""
        self.failures[reason] += count
        self.fail.add(seconds, count)


class StatisticsTable:
    """What is counted of each version, for as long as the server lives: a reload goes on where it stopped."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], ModelStatistics] = {}

    def of(self, name: str, version: str) -> ModelStatistics:
        """The one of this version, which begins to count when it is first asked for."""
        return self._counted.setdefault((name, version), ModelStatistics())
