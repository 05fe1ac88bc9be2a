"""The exposition holds Triton's names and labels to the letter, and any Prometheus reader understands it."""

import math
import re

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.metrics import ServerMetrics
from service.metrics.metrics_options import MetricsOptions
from service.registry import Registry
from service.statistics.calibration_drift import CalibrationDrift
from service.statistics.statistics import FAILURE_REASONS
from tests.enginehouse.conftest import make_record
from tests.service.conftest import Bench, MakeBench, make_request

# Section 1e of the protocol reference, as far as it is here: name, type and labels beside `model` and `version`.
TRITON = {
    "nv_inference_request_success": ("counter", set[str]()),
    "nv_inference_request_failure": ("counter", {"reason"}),
    "nv_inference_count": ("counter", set[str]()),
    "nv_inference_exec_count": ("counter", set[str]()),
    "nv_inference_request_duration_us": ("counter", set[str]()),
    "nv_inference_queue_duration_us": ("counter", set[str]()),
    "nv_inference_compute_input_duration_us": ("counter", set[str]()),
    "nv_inference_compute_infer_duration_us": ("counter", set[str]()),
    "nv_inference_compute_output_duration_us": ("counter", set[str]()),
    "nv_inference_pending_request_count": ("gauge", set[str]()),
    "nv_model_load_duration_secs": ("gauge", set[str]()),
}
OURS = {
    "enginehouse_queue_depth": "gauge",
    "enginehouse_engine_info": "gauge",
    "enginehouse_model_degraded": "gauge",
    "enginehouse_golden_failures_total": "counter",
    "enginehouse_request_duration_seconds": "histogram",
    "enginehouse_decode_duration_seconds": "histogram",
    "enginehouse_encode_duration_seconds": "histogram",
    "enginehouse_queue_duration_seconds": "histogram",
    "enginehouse_compute_duration_seconds": "histogram",
    "enginehouse_batch_rows": "histogram",
}


@pytest.fixture
def served(bench: MakeBench) -> tuple[Bench, ServerMetrics]:
    one: Bench = bench("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 }")
    registry = Registry()
    registry.replace("m", [one.model])
    return one, ServerMetrics(registry)


def samples(metrics: ServerMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by the name that is written; this reader adds the ending to counters that lack it."""
    text = metrics.render()
    written = {re.split("[{ ]", line, maxsplit=1)[0] for line in text.splitlines()}
    return {
        (sample.name if sample.name in written else family.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: ServerMetrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset({"model": "m", "version": "1", **labels}.items())]


def test_tritons_names_types_and_labels_are_exact(served: tuple[Bench, ServerMetrics]) -> None:
    text = served[1].render()
    for name, (kind, labels) in TRITON.items():
        assert f"# TYPE {name} {kind}\n" in text
        found = [set(dict(keys)) for sample, keys in samples(served[1]) if sample == name]
        assert found, name
        assert all(keys == {"model", "version", *labels} for keys in found)
    assert not [line for line in text.splitlines() if line.startswith("nv_") and "_total" in line]
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE nv_")} == set(TRITON)


def test_ours_carry_the_prefix_and_their_types(served: tuple[Bench, ServerMetrics]) -> None:
    text = served[1].render()
    for name, kind in OURS.items():
        assert f"# TYPE {name} {kind}\n" in text
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE enginehouse_")} == set(OURS)
    assert "# TYPE process_resident_memory_bytes gauge" in text


def test_all_failure_reasons_exist_from_the_start_at_zero(served: tuple[Bench, ServerMetrics]) -> None:
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        assert value(served[1], "nv_inference_request_failure", reason=reason) == 0


def test_the_numbers_are_those_of_the_requests(served: tuple[Bench, ServerMetrics]) -> None:
    one, metrics = served
    one.ask("a", make_request([1, 2]))
    one.ask("b")
    one.ask("bad", make_request([1] * 9))
    assert value(metrics, "nv_inference_pending_request_count") == value(metrics, "enginehouse_queue_depth") == 2
    one.clock.advance(1)
    assert value(metrics, "nv_inference_request_success") == 2
    assert value(metrics, "nv_inference_count") == 3
    assert value(metrics, "nv_inference_exec_count") == 1
    assert value(metrics, "nv_inference_queue_duration_us") == 2_000_000
    assert value(metrics, "nv_inference_request_failure", reason="OTHER") == 1
    assert value(metrics, "nv_inference_pending_request_count") == 0
    assert value(metrics, "nv_model_load_duration_secs") == 0.5
    assert value(metrics, "enginehouse_batch_rows_bucket", le="2") == 0
    assert value(metrics, "enginehouse_batch_rows_bucket", le="4") == 1
    assert value(metrics, "enginehouse_batch_rows_bucket", le="+Inf") == value(metrics, "enginehouse_batch_rows_count")
    assert value(metrics, "enginehouse_batch_rows_sum") == 3
    assert value(metrics, "enginehouse_queue_duration_seconds_bucket", le="1") == 2


def test_degraded_models_and_golden_failures_show(served: tuple[Bench, ServerMetrics]) -> None:
    one, metrics = served
    assert value(metrics, "enginehouse_model_degraded") == 0
    assert value(metrics, "enginehouse_golden_failures_total") == 0
    one.model.degraded = "because"
    metrics.count_golden_failure("m", 1)
    metrics.count_golden_failure("gone", 2)
    assert value(metrics, "enginehouse_model_degraded") == 1
    assert value(metrics, "enginehouse_golden_failures_total") == 1
    assert value(metrics, "enginehouse_golden_failures_total", model="gone", version="2") == 1


def test_the_engine_that_serves_is_named(served: tuple[Bench, ServerMetrics]) -> None:
    one, metrics = served
    assert "enginehouse_engine_info{" not in metrics.render()
    one.model.records = (make_record("model.openvino.onnx", "variant", platform="openvino", precision="int8"),)
    labels = {"file": "model.openvino.onnx", "platform": "openvino", "precision": "int8"}
    assert value(metrics, "enginehouse_engine_info", **labels) == 1


def test_a_server_without_models_is_readable_too() -> None:
    families = list(text_string_to_metric_families(ServerMetrics(Registry()).render()))
    assert "process_cpu_seconds" in {family.name for family in families}


def with_options(one: Bench, options: MetricsOptions) -> ServerMetrics:
    registry = Registry()
    registry.replace("m", [one.model])
    return ServerMetrics(registry, options)


def families(metrics: ServerMetrics) -> dict[str, str]:
    """The type of each family that is written."""
    types = [line.split()[2:] for line in metrics.render().splitlines() if line.startswith("# TYPE ")]
    return dict(types)


def test_summaries_tell_the_quantiles_that_were_asked_for(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 }")
    one.model.statistics.summarize()
    metrics = with_options(one, MetricsOptions(has_summaries=True, quantiles=(0.5, 0.99)))
    assert math.isnan(value(metrics, "nv_inference_queue_summary_us", quantile="0.5"))
    one.ask("a", make_request([1, 2]))
    one.clock.advance(1)
    assert value(metrics, "nv_inference_queue_summary_us", quantile="0.5") == pytest.approx(1e6, rel=0.01)
    assert value(metrics, "nv_inference_queue_summary_us", quantile="0.99") == pytest.approx(1e6, rel=0.01)
    assert value(metrics, "nv_inference_queue_summary_us_sum") == 1e6
    assert {name for name, kind in families(metrics).items() if kind == "summary"} == {
        f"nv_inference_{part}_summary_us"
        for part in ("request", "queue", "compute_input", "compute_infer", "compute_output")
    }
    for part in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert value(metrics, f"nv_inference_{part}_summary_us_count") == 1


def test_a_model_whose_answers_are_kept_has_summaries_of_the_cache(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 4 response_cache { enable: true }")
    one.model.statistics.summarize()
    metrics = with_options(one, MetricsOptions(has_summaries=True))
    one.model.statistics.count_cache_hit(0.002, 0.003)
    one.model.statistics.count_cache_miss(0.004)
    assert value(metrics, "nv_cache_hit_summary_per_model", quantile="0.999") == pytest.approx(2000, rel=0.01)
    assert value(metrics, "nv_cache_miss_summary_per_model_sum") == 4000
    assert value(metrics, "nv_inference_request_summary_us", quantile="0.9") == pytest.approx(3000, rel=0.01)
    assert value(metrics, "nv_inference_compute_infer_summary_us_count") == 0


def test_without_counters_only_the_sums_of_time_are_gone(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 4 response_cache { enable: true }")
    kept, left = families(with_options(one, MetricsOptions())), families(with_options(one, MetricsOptions(False)))
    assert set(kept) - set(left) == {
        *(name for name in TRITON if name.endswith("_duration_us")),
        *("nv_cache_hit_duration_per_model", "nv_cache_miss_duration_per_model"),
    }


@pytest.mark.parametrize("is_decoupled", [False, True])
def test_only_decoupled_models_have_a_histogram_of_first_responses(bench: MakeBench, is_decoupled: bool) -> None:
    one: Bench = bench()
    one.model.config.model_transaction_policy.decoupled = is_decoupled
    one.model.statistics.measure_first_response((100, 500, 2000, 5000))
    metrics = with_options(one, MetricsOptions(has_histograms=True))
    name = "nv_inference_first_response_histogram_ms"
    assert (families(metrics).get(name) == "histogram") is is_decoupled
    if is_decoupled:
        histogram = one.model.statistics.first_response
        assert histogram is not None
        histogram.observe(120)
        bounds = ("100", "500", "2000", "5000", "+Inf")
        assert [value(metrics, f"{name}_bucket", le=bound) for bound in bounds] == [0, 1, 1, 1, 1]
    assert name not in families(with_options(one, MetricsOptions()))


def test_tags_are_labels_of_every_series_of_the_model(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 4 metric_tags { key: 'team' value: 'vision' }")
    metrics = with_options(one, MetricsOptions())
    for reason in FAILURE_REASONS:
        assert value(metrics, "nv_inference_request_failure", _team="vision", reason=reason) == 0
    of_model = [dict(labels) for name, labels in samples(metrics) if name.startswith(("nv_", "enginehouse_"))]
    assert {labels.get("_team") for labels in of_model} == {"vision"}


def test_inputs_with_a_calibrated_range_tell_how_much_lies_outside(bench: MakeBench) -> None:
    one: Bench = bench()
    metrics = with_options(one, MetricsOptions())
    assert "enginehouse_calibration_outside_ratio" not in families(metrics)
    one.model.statistics.drift = CalibrationDrift({"x": (0.0, 1.0)})
    assert value(metrics, "enginehouse_calibration_outside_ratio", input="x") == 0
    one.model.statistics.drift.look([make_request([0.5, 0.5, 0.5, 7])])
    assert value(metrics, "enginehouse_calibration_outside_ratio", input="x") == 0.25


def test_the_machine_stands_beside_the_models() -> None:
    metric = Metric("nv_cpu_utilization", "busy", "gauge")
    metric.add_sample(metric.name, {}, 0.5)
    text = ServerMetrics(Registry(), collect_machine=lambda: [metric]).render()
    assert "\nnv_cpu_utilization 0.5\n" in text
