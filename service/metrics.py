"""Triton's metrics under their exact names, and ours, in the Prometheus text format.

The exposition is our own because the library's appends `_total` to every counter, and dashboards know the names
without it.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.core import Metric

from service.registry import Registry
from service.served import Served
from service.statistics import Histogram


@dataclass(slots=True, frozen=True)
class _Counter:
    """One counter of Triton's: its name, what it says, and how a model tells it."""

    name: str
    help: str
    attribute: str
    scale: float = 1.0


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
_HISTOGRAMS = (
    ("enginehouse_request_duration_seconds", "Time of answered requests, from the whole body on", "request_histogram"),
    ("enginehouse_decode_duration_seconds", "Time of reading requests that were answered", "decode_histogram"),
    ("enginehouse_encode_duration_seconds", "Time of writing their answers", "encode_histogram"),
    ("enginehouse_queue_duration_seconds", "Time of requests in the queue", "queue_histogram"),
    ("enginehouse_compute_duration_seconds", "Time of batches, joining and slicing included", "compute_histogram"),
    ("enginehouse_batch_rows", "Rows of executed batches", "rows_histogram"),
)


class ServerMetrics:
    """Collects when asked; nothing is counted twice, everything is read from the models' statistics."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._golden_failures: Tally[tuple[str, str]] = Tally()

    def count_golden_failure(self, model: str, version: int) -> None:
        """An engine did not give the recorded answers. Called from loading threads."""
        self._golden_failures[model, str(version)] += 1

    def render(self) -> str:
        """The whole exposition, in the text format of version 0.0.4."""
        return exposition_from_metrics([*self._collect(), *PROCESS_COLLECTOR.collect()])

    def _collect(self) -> Iterator[Metric]:
        models = list(self._registry.served())
        yield self._successes(models)
        yield self._failures(models)
        for counter in _COUNTERS:
            yield _counted(counter, models)
        cached = [model for model in models if model.config.response_cache.enable]
        for counter in _CACHE_COUNTERS if cached else ():
            yield _counted(counter, cached)
        yield _gauge("nv_inference_pending_request_count", "Requests that wait", models, "queue_depth")
        yield _gauge("enginehouse_queue_depth", "Requests that wait", models, "queue_depth")
        yield _gauge("nv_model_load_duration_secs", "Time that loading took", models, "load_seconds")
        yield self._engines(models)
        yield self._degraded(models)
        yield self._golden(models)
        for name, text, attribute in _HISTOGRAMS:
            metric = Metric(name, text, "histogram")
            for model in models:
                _add_histogram(metric, _labels(model), getattr(model.statistics, attribute))
            yield metric

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
        keys = {(model.name, model.version) for model in models} | set(self._golden_failures)
        for model_name, version in sorted(keys):
            labels = {"model": model_name, "version": version}
            metric.add_sample(name, labels, self._golden_failures[model_name, version])
        return metric


def exposition_from_metrics(metrics: Iterable[Metric]) -> str:
    """Write families under exactly the names they have."""
    lines: list[str] = []
    for metric in metrics:
        # The library strips the ending of counters from the family's name; the text format wants the whole.
        name = metric.samples[0].name if metric.type == "counter" and metric.samples else metric.name
        lines.append(f"# HELP {name} {_escaped(metric.documentation)}")
        lines.append(f"# TYPE {name} {metric.type}")
        for sample in metric.samples:
            labels = ",".join(f'{key}="{_escaped(text, quotes=True)}"' for key, text in sample.labels.items())
            lines.append(f"{sample.name}{{{labels}}} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def _labels(model: Served) -> dict[str, str]:
    return {"model": model.name, "version": model.version}


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
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": _number(bound)}, cumulative)
    metric.add_sample(f"{metric.name}_sum", labels, histogram.total)
    metric.add_sample(f"{metric.name}_count", labels, cumulative)


def _number(value: float) -> str:
    """Infinity as the format spells it, whole numbers without a fraction."""
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text
