"""The exposition holds Triton's names and labels to the letter, and any Prometheus reader understands it."""

import math

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import ServerMetrics, exposition_from_metrics
from service.registry import Registry
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
    written = {line.partition("{")[0] for line in text.splitlines()}
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


def test_odd_labels_and_numbers_survive_a_reader() -> None:
    metric = Metric("odd", 'help with \\ and\nnewline and "quotes"', "gauge")
    label = 'a "quoted" \\ back\nslash'
    numbers = [0, 1.5, 1e-9, 1e300, math.inf, -math.inf, 123456789012345]
    for at, number in enumerate(numbers):
        metric.add_sample("odd", {"at": str(at), "label": label}, number)
    (family,) = text_string_to_metric_families(exposition_from_metrics([metric]))
    assert [sample.value for sample in family.samples] == numbers
    assert {sample.labels["label"] for sample in family.samples} == {label}
    assert family.documentation == metric.documentation
