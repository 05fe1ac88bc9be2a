"""Triton's metrics of models under their exact names, and ours."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.core import Metric

from enginehouse.config_rules import FIRST_RESPONSE
from service.metrics.exposition import exposition_from_metrics, spelled
from service.metrics.metrics_options import MetricsOptions
from service.registry import Registry
from service.served import Served
from service.statistics.statistics import Histogram


@dataclass(slots=True, frozen=True)
class _Counter:
    """One counter of Triton's: its name, what it says, and how a model tells it."""

    name: str
    help: str
    attribute: str
    scale: float = 1.0

    @property
    def is_latency(self) -> bool:
        return "_duration_" in self.name


_COUNTERS = (
    _Counter("nv_inference_count", "Rows that were inferred", "inference_count"),
    _Counter("nv_inference_exec_count", "Batches that were executed", "execution_count"),
    _Counter("nv_inference_request_duration_us", "Time of answered requests", "success.seconds", 1e6),
    _Counter("nv_inference_queue_duration_us", "Time of requests in the queue", "queue.seconds", 1e6),
    _Counter("nv_inference_compute_input_duration_us", "Time of joining inputs", "compute_input.seconds", 1e6),
    _Counter("nv_inference_compute_infer_duration_us", "Time in the engine", "compute_infer.seconds", 1e6),
    _Counter("nv_inference_compute_output_duration_us", "Time of slicing outputs", "compute_output.seconds", 1e6),
)
_CACHE_COUNTERS = (
    _Counter("nv_cache_num_hits_per_model", "Requests that the response cache answered", "cache_hit.count"),
    _Counter("nv_cache_num_misses_per_model", "Requests that it could not answer", "cache_miss.count"),
    _Counter("nv_cache_hit_duration_per_model", "Time of finding answers, in microseconds", "cache_hit.seconds", 1e6),
    _Counter(
        "nv_cache_miss_duration_per_model",
        "Time of looking in vain and of keeping answers, in microseconds",
        "cache_miss.seconds",
        1e6,
    ),
)
_SUMMARIES = (
    ("nv_inference_request_summary_us", "Time of answered requests", "request"),
    ("nv_inference_queue_summary_us", "Time of requests in the queue", "queue"),
    ("nv_inference_compute_input_summary_us", "Time of joining inputs", "compute_input"),
    ("nv_inference_compute_infer_summary_us", "Time in the engine", "compute_infer"),
    ("nv_inference_compute_output_summary_us", "Time of slicing outputs", "compute_output"),
)
_CACHE_SUMMARIES = (
    ("nv_cache_hit_summary_per_model", "Time of finding answers, in microseconds", "cache_hit"),
    ("nv_cache_miss_summary_per_model", "Time of looking in vain and of keeping answers", "cache_miss"),
)
_HISTOGRAMS = (
    ("enginehouse_request_duration_seconds", "Time of answered requests, from the whole body on", "request_histogram"),
    ("enginehouse_decode_duration_seconds", "Time of reading requests that were answered", "decode_histogram"),
    ("enginehouse_encode_duration_seconds", "Time of writing their answers", "encode_histogram"),
    ("enginehouse_queue_duration_seconds", "Time of requests in the queue", "queue_histogram"),
    ("enginehouse_compute_duration_seconds", "Time of batches, joining and slicing included", "compute_histogram"),
    ("enginehouse_batch_rows", "Rows of executed batches", "rows_histogram"),
)


class ServerMetrics:
    """Collects when asked; nothing is counted twice, everything is read from the models' statistics.

    Args:
        options: what is told of latencies.
        collect_machine: tells the families of the machine.
    """

    def __init__(
        self,
        registry: Registry,
        options: MetricsOptions | None = None,
        collect_machine: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._registry = registry
        self._options = options or MetricsOptions()
        self._collect_machine = collect_machine
        self._golden_failures: Tally[tuple[str, str]] = Tally()

    def count_golden_failure(self, model: str, version: int) -> None:
        """An engine did not give the recorded answers. Called from loading threads."""
        self._golden_failures[model, str(version)] += 1

    def render(self) -> str:
        """The whole exposition, in the text format of version 0.0.4."""
        models = list(self._registry.served())
        families = [*self._tritons(models), *self._ours(models), *self._collect_machine()]
        return exposition_from_metrics([*families, *PROCESS_COLLECTOR.collect()])

    def _tritons(self, models: list[Served]) -> Iterator[Metric]:
        yield self._successes(models)
        yield self._failures(models)
        cached = [model for model in models if model.config.response_cache.enable]
        for counters, those in ((_COUNTERS, models), (_CACHE_COUNTERS, cached)):
            for counter in counters:
                if those and (self._options.has_counters or not counter.is_latency):
                    yield _counted(counter, those)
        if self._options.has_summaries:
            for name, text, attribute in _SUMMARIES:
                yield self._summary(name, text, attribute, models)
            for name, text, attribute in _CACHE_SUMMARIES:
                yield from _if_any(self._summary(name, text, attribute, cached))
        if self._options.has_histograms:
            yield from _if_any(self._first_responses(models))
        yield _gauge("nv_inference_pending_request_count", "Requests that wait", models, "queue_depth")
        yield _gauge("nv_model_load_duration_secs", "Time that loading took", models, "load_seconds")

    def _ours(self, models: list[Served]) -> Iterator[Metric]:
        yield _gauge("enginehouse_queue_depth", "Requests that wait", models, "queue_depth")
        yield self._engines(models)
        yield self._degraded(models)
        yield self._golden(models)
        yield from _if_any(self._drifts(models))
        for name, text, attribute in _HISTOGRAMS:
            metric = Metric(name, text, "histogram")
            for model in models:
                _add_histogram(metric, _labels(model), getattr(model.statistics, attribute))
            yield metric

    def _summary(self, name: str, text: str, attribute: str, models: Iterable[Served]) -> Metric:
        metric = Metric(name, text, "summary")
        ranks = self._options.quantiles
        for model in models:
            if model.statistics.summaries is None:
                continue
            labels, recent = _labels(model), getattr(model.statistics.summaries, attribute)
            for rank, value in zip(ranks, recent.at(ranks), strict=True):
                metric.add_sample(name, {**labels, "quantile": spelled(rank)}, value)
            metric.add_sample(f"{name}_sum", labels, recent.total)
            metric.add_sample(f"{name}_count", labels, recent.count)
        return metric

    def _first_responses(self, models: Iterable[Served]) -> Metric:
        metric = Metric(FIRST_RESPONSE, "Time to the first response of decoupled models", "histogram")
        for model in models:
            histogram = model.statistics.first_response
            if histogram is not None and model.config.model_transaction_policy.decoupled:
                _add_histogram(metric, _labels(model), histogram)
        return metric

    def _drifts(self, models: Iterable[Served]) -> Metric:
        name = "enginehouse_calibration_outside_ratio"
        metric = Metric(name, "Share of values that lie outside the range that INT8 was calibrated on, lately", "gauge")
        for model in models:
            shares: Mapping[str, float] = {} if model.statistics.drift is None else model.statistics.drift.shares()
            for tensor, share in shares.items():
                metric.add_sample(name, {**_labels(model), "input": tensor}, share)
        return metric

    def _successes(self, models: Iterable[Served]) -> Metric:
        metric = Metric("nv_inference_request_success", "Requests that were answered with outputs", "counter")
        for model in models:
            metric.add_sample(metric.name, _labels(model), model.statistics.success.count)
        return metric

    def _failures(self, models: Iterable[Served]) -> Metric:
        metric = Metric("nv_inference_request_failure", "Requests that were not, by reason", "counter")
        for model in models:
            for reason, count in model.statistics.failures.items():
                metric.add_sample(metric.name, {**_labels(model), "reason": reason}, count)
        return metric

    def _engines(self, models: Iterable[Served]) -> Metric:
        metric = Metric("enginehouse_engine_info", "The engine file that serves, where there is evidence", "gauge")
        for model in models:
            for record in model.records:
                facts = {"file": record.file, "platform": record.platform, "precision": record.precision}
                metric.add_sample(metric.name, {**_labels(model), **facts}, 1)
        return metric

    def _degraded(self, models: Iterable[Served]) -> Metric:
        metric = Metric("enginehouse_model_degraded", "1 if this is not what was published or asked for", "gauge")
        for model in models:
            metric.add_sample(metric.name, _labels(model), 1 if model.degraded else 0)
        return metric

    def _golden(self, models: Iterable[Served]) -> Metric:
        name = "enginehouse_golden_failures_total"
        metric = Metric(name, "Engines that did not give the recorded answers", "counter")
        gone = {key: {"model": key[0], "version": key[1]} for key in self._golden_failures}
        for key, labels in sorted(
            {**gone, **{(model.name, model.version): _labels(model) for model in models}}.items()
        ):
            metric.add_sample(name, labels, self._golden_failures[key])
        return metric


def _if_any(metric: Metric) -> tuple[Metric, ...]:
    """A family that only some models have is not there where none has it."""
    return (metric,) if metric.samples else ()


def _labels(model: Served) -> dict[str, str]:
    tags = {f"_{tag}": text for tag, text in sorted(model.config.metric_tags.items())}
    return {"model": model.name, "version": model.version, **tags}


def _counted(counter: _Counter, models: Iterable[Served]) -> Metric:
    metric = Metric(counter.name, counter.help, "counter")
    for model in models:
        metric.add_sample(counter.name, _labels(model), _value(model, counter))
    return metric


def _value(model: Served, counter: _Counter) -> float:
    value: object = model.statistics
    for part in counter.attribute.split("."):
        value = getattr(value, part)
    assert isinstance(value, int | float)
    return round(value * counter.scale)


def _gauge(name: str, text: str, models: Iterable[Served], attribute: str) -> Metric:
    metric = Metric(name, text, "gauge")
    for model in models:
        metric.add_sample(name, _labels(model), getattr(model, attribute))
    return metric


def _add_histogram(metric: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    cumulative = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        cumulative += count
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": spelled(bound)}, cumulative)
    metric.add_sample(f"{metric.name}_sum", labels, histogram.total)
    metric.add_sample(f"{metric.name}_count", labels, cumulative)
