"""One real server over small models, shared by all contract tests."""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from enginehouse.dtype import DTYPES
from enginehouse.evidence import TargetRecord
from enginehouse.hardware import this_hardware
from enginehouse.model_config import config_from_specs
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.open_engine import open_engine
from optimizer.publish.engines import BuiltEngine, lay_out
from optimizer.publish.publish import publish
from optimizer.publish.staging import staging
from tests.conftest import DIGITS, RunningService, StartService, make_identity_model
from tests.enginehouse.conftest import make_evidence


def save_model(repository: Path, name: str, model: onnx.ModelProto, config: str = "", version: int = 1) -> None:
    directory = repository / name / str(version)
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    if config:
        (repository / name / "config.pbtxt").write_text(config)


def make_simple_model() -> onnx.ModelProto:
    """Two inputs, their sum and their difference: the names and shapes that the field's example clients use."""
    names = ["INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1"]
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16]) for name in names]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    graph = helper.make_graph(nodes, "simple", tensors[:2], tensors[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def make_argmax_model() -> onnx.ModelProto:
    """One number per row: its output has no dimension but the batch."""
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0)],
        "argmax",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def make_failing_model() -> onnx.ModelProto:
    """Takes any length and fails on most: what the engine finds wrong is nobody else's fault."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["INPUT0", "shape"], ["OUTPUT0"])],
        "failing",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, ["batch", 2, 2])],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 2, 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


ARGMAX_CONFIG = """
max_batch_size: 8
dynamic_batching { }
input [ { name: "scores" data_type: TYPE_FP32 dims: [ 5 ] } ]
output [ { name: "best" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } } ]
"""


@pytest.fixture(scope="session")
def contract_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("contract") / "models"
    for dtype in DTYPES.values():
        save_model(repository, f"identity_{dtype.name.lower()}", make_identity_model(dtype.onnx_code))
    save_model(repository, "simple", make_simple_model())
    save_model(repository, "fixed", make_identity_model(shape=(2, 3)))
    save_model(repository, "argmax", make_argmax_model(), ARGMAX_CONFIG)
    save_model(repository, "failing", make_failing_model())
    save_model(repository, "versions", make_identity_model(), "version_policy { all { } }", version=1)
    save_model(repository, "versions", make_identity_model(), version=3)
    return repository


@pytest.fixture(scope="session")
def service(start_service: StartService, contract_repository: Path) -> Iterator[RunningService]:
    flags = ["--model-control-mode", "explicit", "--load-model", "*", "--http-max-input-size", "1000000"]
    with start_service(contract_repository, *flags) as running:
        yield running


def digits_engine(
    path: Path,
    file: str,
    role: Literal["chosen", "variant", "fallback"],
    speedup: float = 1.0,
    platform: str = "onnxruntime_onnx",
    precision: str = "fp32",
    settings: dict[str, str] | None = None,
) -> BuiltEngine:
    return BuiltEngine(
        file=file,
        source_path=path,
        role=role,
        platform=platform,
        provider=CPU_PROVIDER,
        precision=precision,
        candidate=file,
        settings=settings or {},
        target=TargetRecord(),
        speedup=speedup,
        engine=open_engine(path, platform, 1, settings=settings),
    )


def publish_digits(repository: Path, engines: Sequence[BuiltEngine] = ()) -> Path:
    """Publish a version of the digits model as the optimizer would, without its search."""
    path = DIGITS / "digits.onnx"
    original = OnnxRuntimeEngine(path)
    built = engines or (digits_engine(path, "model.onnx", "chosen"), digits_engine(path, "fallback.onnx", "fallback"))
    config = config_from_specs("digits", "onnxruntime_onnx", original.inputs, original.outputs, 32, {})
    with np.load(DIGITS / "digits.npz") as data, staging(repository) as workdir:
        files = workdir / "version"
        files.mkdir()
        feeds = {original.inputs[0].name: data[f"calibration/{original.inputs[0].name}"][:16]}
        records, golden = lay_out(files, built, original, feeds, {}, synthetic=False)
        evidence = publish(
            repository,
            config,
            files,
            workdir,
            lambda number: make_evidence(
                {}, "digits", number, engines=records, golden=golden, hardware=this_hardware()
            ),
        )
    return repository / "digits" / str(evidence.version)


def index(service: RunningService) -> dict[str, Any]:
    """The rows of the repository index by version."""
    rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
    return {row["version"]: row for row in rows}


def ask(service: RunningService) -> Any:
    """The answer to the example's digit, a seven."""
    body = (DIGITS / "request.json").read_bytes()
    return json.load(urllib.request.urlopen(f"{service.url}/v2/models/digits/infer", body))


def metrics(service: RunningService) -> str:
    text: str = urllib.request.urlopen(f"{service.url}/metrics").read().decode()
    return text


def load(service: RunningService, name: str = "digits") -> None:
    urllib.request.urlopen(urllib.request.Request(f"{service.url}/v2/repository/models/{name}/load", b"{}"))
