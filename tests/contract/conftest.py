"""One real server over small models, shared by all contract tests."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from enginehouse.dtype import DTYPES
from tests.conftest import RunningService, StartService, make_identity_model


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
