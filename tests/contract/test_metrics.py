"""What Prometheus finds on a real server: inputs that drift, the machine, and what the flags of metrics ask for."""

import queue
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from rich.console import Console

from optimizer.pipeline import build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from tests.conftest import DIGITS, RunningService, StartService, make_identity_model
from tests.contract.conftest import metrics, save_model
from tests.contract.test_isolation import wait_until

# What the module of NVIDIA's library answers, on a machine with one GPU.
PYNVML = """
    from types import SimpleNamespace

    class NVMLError(Exception): pass

    drawn = 1000

    def nvmlInit(): pass
    def nvmlShutdown(): pass
    def nvmlDeviceGetCount(): return 1
    def nvmlDeviceGetHandleByIndex(index): return index
    def nvmlDeviceGetUUID(handle): return "GPU-planted"
    def nvmlDeviceGetUtilizationRates(handle): return SimpleNamespace(gpu=75, memory=10)
    def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=8000, free=5000, used=3000)
    def nvmlDeviceGetPowerUsage(handle): return 120500
    def nvmlDeviceGetEnforcedPowerLimit(handle): raise NVMLError("Not Supported")
    def nvmlDeviceGetTotalEnergyConsumption(handle):
        global drawn
        drawn += 500
        return drawn
"""
COUNT = """
    import numpy as np
    from enginehouse.python_model import Model, Response

    class Count(Model):
        def execute(self, requests):
            for request in requests:
                sender = request.response_sender()
                for number in range(3):
                    sender.send(Response({"OUT": np.array([number], np.int32)}))
                sender.finish()
"""
COUNT_CONFIG = """
    backend: "python"
    input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
    output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
    model_transaction_policy { decoupled: true }
    model_metrics {
      metric_control {
        metric_identifier { family: "nv_inference_first_response_histogram_ms" }
        histogram_options { buckets: [ 0.001, 60000 ] }
      }
    }
"""


def series(service: RunningService) -> dict[str, float]:
    """Every series by its name and labels, as they are written."""
    lines = [line for line in metrics(service).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def infer(service: RunningService, model: str, name: str, array: Any) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        given = triton_http.InferInput(name, array.shape, "FP32")
        given.set_data_from_numpy(array)
        client.infer(model, [given])


@pytest.fixture(scope="module")
def int8_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits MLP in static INT8, as the optimizer builds it."""
    folder = tmp_path_factory.mktemp("int8")
    options: dict[str, Any] = {
        "model": DIGITS / "digits_mlp.onnx",
        "name": "digits",
        "repository": folder / "models",
        "data": str(DIGITS / "digits.npz"),
        "engine": "onnxruntime",
        "precision": "int8",
        "objective": "size",
        "max_drop": "50%",
        "benchmark_seconds": 0.01,
    }
    with (folder / "log").open("w") as log:
        published = build(recipe_from_options(**options), Steps(Console(file=log)))
    assert published.evidence.engine_file("chosen").precision == "int8"
    return folder / "models"


def test_inputs_of_another_scale_show_in_the_share_outside_the_calibrated_range(
    start_service: StartService, int8_repository: Path
) -> None:
    name = 'enginehouse_calibration_outside_ratio{model="digits",version="1",input="pixels"}'
    with np.load(DIGITS / "digits.npz") as data:
        rows = data["test/pixels"][:10]
    # Pixels that nobody divided by their sixteen levels: the classic mistake.
    raw = rows * np.float32(16)
    with start_service(int8_repository) as service:
        assert series(service)[name] == 0
        for row in rows:
            infer(service, "digits", "pixels", row[None])
        assert series(service)[name] < 0.001
        for row in raw:
            infer(service, "digits", "pixels", row[None])
        cut_off = float(np.mean(raw > 1))
        assert cut_off > 0.3
        assert series(service)[name] == pytest.approx(cut_off / 2, rel=0.1)


def test_a_version_that_was_not_calibrated_has_no_such_share(service: RunningService) -> None:
    assert "enginehouse_calibration_outside_ratio" not in metrics(service)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a tagged and a decoupled model, and beside it a module for a GPU that is not there."""
    folder = tmp_path_factory.mktemp("planted")
    tagged = 'metric_tags { key: "team" value: "vision" }'
    save_model(folder / "models", "tagged", make_identity_model(), tagged)
    version = folder / "models" / "count" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(dedent(COUNT))
    (version.parent / "config.pbtxt").write_text(dedent(COUNT_CONFIG))
    (folder / "modules").mkdir()
    (folder / "modules" / "pynvml.py").write_text(dedent(PYNVML))
    return folder


@pytest.fixture(scope="module")
def telling(start_service: StartService, planted: Path) -> Iterator[RunningService]:
    """A server that was asked for everything but counters of latencies."""
    asked = ("summary_latencies=true", "histogram_latencies=true", "counter_latencies=false")
    flags = [word for setting in asked for word in ("--metrics-config", setting)]
    quantiles = ["--metrics-config", "summary_quantiles=0.5:0.05,0.99:0.001"]
    environment = {"PYTHONPATH": str(planted / "modules")}
    with start_service(
        planted / "models", *flags, *quantiles, "--metrics-interval-ms=50", environment=environment
    ) as running:
        yield running


def test_a_tag_is_a_label_and_summaries_tell_the_quantiles_that_were_asked_for(telling: RunningService) -> None:
    for _ in range(5):
        infer(telling, "tagged", "INPUT0", np.ones((1, 3), np.float32))
    found = series(telling)
    labels = 'model="tagged",version="1",_team="vision"'
    assert found[f"nv_inference_request_success{{{labels}}}"] == 5
    for part in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        name = f"nv_inference_{part}_summary_us"
        assert found[f"{name}_count{{{labels}}}"] == 5
        half, most = (found[f'{name}{{{labels},quantile="{rank}"}}'] for rank in ("0.5", "0.99"))
        assert 0 <= half <= most <= found[f"{name}_sum{{{labels}}}"] * 1.01
    assert not [name for name in found if re.match("nv_.*_duration_us", name)]


def test_first_responses_of_a_decoupled_model_fall_into_its_own_buckets(telling: RunningService) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{telling.grpc_port}") as client:
        client.start_stream(lambda result, error: heard.put(error or result))
        given = triton_grpc.InferInput("IN", [1], "INT32")
        given.set_data_from_numpy(np.array([1], np.int32))
        client.async_stream_infer("count", [given])
        for _ in range(3):
            assert not isinstance(heard.get(timeout=30), Exception)
        client.stop_stream()
    found = series(telling)
    name, labels = "nv_inference_first_response_histogram_ms", 'model="count",version="1"'
    assert found[f"{name}_count{{{labels}}}"] == 1
    assert 0 < found[f"{name}_sum{{{labels}}}"] < 60000
    buckets = [value for key, value in found.items() if key.startswith(f"{name}_bucket")]
    assert buckets == [0, 1, 1]


def test_the_machine_is_read_at_the_interval_that_was_asked_for(telling: RunningService) -> None:
    states: set[tuple[float, float, float]] = set()
    energy = 'nv_energy_consumption{gpu_uuid="GPU-planted"}'

    def has_changed_often() -> bool:
        found = series(telling)
        if energy in found:
            names = ("nv_cpu_utilization", "nv_cpu_memory_used_bytes", energy)
            states.add((found[names[0]], found[names[1]], found[names[2]]))
        return len(states) > 5

    wait_until(has_changed_often)
    joules = sorted(state[2] for state in states)
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(joules))
    assert all(0 <= busy <= 1 and used > 0 for busy, used, _ in states)
    found = series(telling)
    gpu = {name.partition("{")[0]: value for name, value in found.items() if 'gpu_uuid="GPU-planted"' in name}
    gpu.pop("nv_energy_consumption")
    assert gpu == {
        "nv_gpu_utilization": 0.75,
        "nv_gpu_memory_total_bytes": 8000,
        "nv_gpu_memory_used_bytes": 3000,
        "nv_gpu_power_usage": 120.5,
    }


def test_by_default_there_are_neither_summaries_nor_first_responses(service: RunningService) -> None:
    text = metrics(service)
    assert "_summary_" not in text
    assert "first_response" not in text
    assert "# TYPE nv_inference_queue_duration_us counter" in text


def test_meters_that_are_not_allowed_are_not_read(start_service: StartService, planted: Path) -> None:
    flags = ("--allow-cpu-metrics", "false", "--allow-gpu-metrics=off", "--metrics-interval-ms", "1")
    environment = {"PYTHONPATH": str(planted / "modules")}
    with start_service(planted / "models", *flags, environment=environment) as service:
        infer(service, "tagged", "INPUT0", np.ones((1, 3), np.float32))
        text = metrics(service)
        assert "nv_inference_count{" in text
        assert "nv_cpu_" not in text
        assert "gpu_uuid" not in text


def test_without_metrics_there_is_no_port_and_no_path_for_them(start_service: StartService, planted: Path) -> None:
    with start_service(planted / "models", "--allow-metrics", "false") as service:
        assert "  metrics  off\n" in service.output
        infer(service, "tagged", "INPUT0", np.ones((1, 3), np.float32))
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{service.url}/metrics")
        with refusal.value as answer:
            assert answer.code == 404
        assert service.stop() == 0
