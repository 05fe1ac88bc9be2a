"""One version, several engines: the server takes the best that holds here, whatever library runs it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from enginehouse.evidence import EVIDENCE_FILE, TargetRecord
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.repository import digest
from optimizer.graph.graph import Graph, load_graph
from optimizer.publish.engines import BuiltEngine
from optimizer.publish.withdrawal import restore, roll_back
from optimizer.quantize.int8 import QuantizationPlan, plan_int8, quantize_int8
from tests.conftest import DIGITS, StartService
from tests.contract.conftest import ask, digits_engine, index, load, metrics, publish_digits

MODEL = DIGITS / "digits.onnx"
F32, BF16 = ({"INFERENCE_PRECISION_HINT": hint} for hint in ("f32", "bf16"))


def observed_ranges(graph: Graph, plan: QuantizationPlan, workdir: Path) -> dict[str, tuple[float, float]]:
    model = graph.copy()
    fed = {spec.name for spec in graph.inputs}
    known = {spec.name for spec in graph.outputs}
    for name in plan.tensors:
        if name not in fed | known:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, workdir / "observed.onnx")
    with np.load(DIGITS / "digits.npz") as data:
        feeds = {name: data[f"calibration/{name}"] for name in fed}
    values = {**feeds, **OnnxRuntimeEngine(workdir / "observed.onnx").run(feeds)}
    return {name: (float(values[name].min()), float(values[name].max())) for name in plan.tensors}


@pytest.fixture(scope="module")
def int8_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("int8")
    graph = load_graph(MODEL)
    plan = plan_int8(graph)
    assert isinstance(plan, QuantizationPlan), plan
    quantized = quantize_int8(graph, plan, observed_ranges(graph, plan, workdir), "u8s8")
    assert isinstance(quantized, Graph), quantized
    quantized.save(workdir / "int8.onnx")
    return workdir / "int8.onnx"


def engines(int8_model: Path) -> dict[str, BuiltEngine]:
    """What this machine can run of the digits model; the fallback comes last."""
    return {
        "int8": digits_engine(int8_model, "model.onnx", "chosen", precision="int8"),
        "f32": digits_engine(MODEL, "model.openvino.onnx", "variant", platform="openvino", settings=F32),
        "bf16": digits_engine(
            MODEL, "model.bf16.onnx", "variant", platform="openvino", precision="bf16", settings=BF16
        ),
        "int8 and bf16": digits_engine(
            int8_model, "model.int8.onnx", "variant", platform="openvino", precision="int8", settings=BF16
        ),
        "fp32": digits_engine(MODEL, "fallback.onnx", "fallback"),
    }


def publish_led_by(repository: Path, leader: str, int8_model: Path) -> Path:
    """A version in which one engine is by far the fastest."""
    made = engines(int8_model)
    return publish_digits(
        repository, [replace(engine, speedup=9.0 if name == leader else 1.0) for name, engine in made.items()]
    )


@pytest.mark.parametrize(
    ("leader", "file", "platform"),
    [
        ("int8", "model.onnx", "onnxruntime_onnx"),
        ("f32", "model.openvino.onnx", "openvino"),
        ("bf16", "model.bf16.onnx", "openvino"),
        ("int8 and bf16", "model.int8.onnx", "openvino"),
    ],
)
def test_each_engine_that_this_machine_can_run_serves_when_it_is_the_best(
    start_service: StartService, tmp_path: Path, int8_model: Path, leader: str, file: str, platform: str
) -> None:
    publish_led_by(tmp_path, leader, int8_model)
    with start_service(tmp_path) as service:
        answer, text, rows = ask(service), metrics(service), index(service)
    assert f'engine_info{{model="digits",version="1",file="{file}",platform="{platform}"' in text
    assert rows == {"1": {"name": "digits", "version": "1", "state": "READY"}}
    (asked,) = json.loads((DIGITS / "request.json").read_text())["inputs"]
    engine = engines(int8_model)[leader].engine
    assert engine is not None
    direct = engine.run({asked["name"]: np.array(asked["data"], np.float32).reshape(asked["shape"])})["logits"]
    served = np.array(answer["outputs"][0]["data"])
    assert int(served.argmax()) == 7
    np.testing.assert_allclose(served, direct[0], rtol=1e-3, atol=1e-3)


def test_an_engine_that_answers_otherwise_makes_way_for_the_next_and_it_shows_everywhere(
    start_service: StartService, tmp_path: Path, int8_model: Path
) -> None:
    version = publish_led_by(tmp_path, "bf16", int8_model)
    model = onnx.load(version / "model.bf16.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), largest.name))
    onnx.save(model, version / "model.bf16.onnx")
    evidence = json.loads((version / EVIDENCE_FILE).read_text())
    evidence["files"]["model.bf16.onnx"] = digest(version / "model.bf16.onnx")
    (version / EVIDENCE_FILE).write_text(json.dumps(evidence))
    with start_service(tmp_path) as service:
        reason = index(service)["1"]["reason"]
        assert reason.startswith("degraded: model.onnx serves because: model.bf16.onnx: golden output 'logits' differs")
        assert int(np.argmax(ask(service)["outputs"][0]["data"])) == 7
        text = metrics(service)
    assert 'enginehouse_model_degraded{model="digits",version="1"} 1' in text
    assert 'enginehouse_golden_failures_total{model="digits",version="1"} 1' in text
    assert 'version="1",file="model.onnx"' in text
    assert "model.bf16.onnx cannot serve: golden output" in service.output


def test_an_engine_for_another_machine_is_passed_over_and_the_index_says_why(
    start_service: StartService, tmp_path: Path, int8_model: Path
) -> None:
    made = engines(int8_model)
    (tmp_path / "some.plan").write_bytes(b"a plan")
    plan = replace(
        made["f32"],
        file="model.sm89.plan",
        source_path=tmp_path / "some.plan",
        platform="tensorrt_plan",
        settings={},
        target=TargetRecord(compute_capability="8.9"),
        engine=None,
        speedup=20.0,
    )
    publish_digits(tmp_path / "models", [made["int8"], plan, made["fp32"]])
    with start_service(tmp_path / "models") as service:
        row = index(service)["1"]
        assert row["state"] == "READY"
        assert row["reason"].startswith("model.onnx serves; passed over: model.sm89.plan: ")
        assert 'enginehouse_model_degraded{model="digits",version="1"} 0' in metrics(service)
    assert "passed over model.sm89.plan" in service.output


def test_a_running_server_takes_a_withdrawn_version_out_and_in_again(
    start_service: StartService, tmp_path: Path
) -> None:
    for _ in range(2):
        publish_digits(tmp_path)
    with start_service(tmp_path, "--model-control-mode", "explicit", "--load-model", "digits") as service:
        assert ask(service)["model_version"] == "2"
        assert roll_back(tmp_path, "digits") == (2, 1)
        assert ask(service)["model_version"] == "2", "nothing changes under a server that was not told"
        load(service)
        assert ask(service)["model_version"] == "1"
        assert index(service)["1"] == {"name": "digits", "version": "1", "state": "READY"}
        assert index(service)["2"]["state"] == "UNAVAILABLE"
        restore(tmp_path, "digits", 2)
        load(service)
        assert ask(service)["model_version"] == "2"
