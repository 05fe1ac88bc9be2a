from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginehouse.errors import EngineFailed
from optimizer.build.memory import memory_bytes
from optimizer.build.open_artifact import Artifact

SIDE = 2048


def square(path: Path) -> Path:
    """16 MiB of weights."""
    weight = numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_an_engine_takes_at_least_what_its_weights_weigh(tmp_path: Path) -> None:
    artifact = Artifact(square(tmp_path / "square.onnx"), "onnxruntime")
    found = memory_bytes(artifact, {"x": np.ones((1, SIDE), np.float32)}, threads=1)
    assert 0.8 * 4 * SIDE**2 < found < 10 * 4 * SIDE**2


def test_an_engine_that_cannot_be_opened_says_so_from_its_own_process(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(EngineFailed, match=r"cannot open none\.onnx"):
        memory_bytes(Artifact(tmp_path / "none.onnx", "onnxruntime"), {}, threads=1)
