"""A small classifier and its data, for tests that need a model but not a trained one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer.graph.graph import Graph

CLASSES = 3
SPLIT_ROWS = {"calibration": 40, "validation": 60, "test": 30}


def small_classifier() -> onnx.ModelProto:
    """Four numbers to three scores, through one hidden layer."""
    random = np.random.default_rng(7)
    weights = {
        "hidden_weight": random.standard_normal((4, 16)),
        "hidden_bias": random.standard_normal(16),
        "score_weight": random.standard_normal((16, CLASSES)),
        "score_bias": random.standard_normal(CLASSES),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "hidden_weight"], ["product"]),
            helper.make_node("Add", ["product", "hidden_bias"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "score_weight", "score_bias"], ["scores"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def small_rows(rows: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def small_scores(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the classifier answers, computed by hand."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in small_classifier().graph.initializer}
    hidden = np.maximum(x @ weights["hidden_weight"] + weights["hidden_bias"], 0)
    scores: NDArray[np.float32] = hidden @ weights["score_weight"] + weights["score_bias"]
    return scores


@pytest.fixture
def small_graph() -> Graph:
    return Graph(small_classifier())


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_classifier(), path)
    return path


@pytest.fixture
def small_arrays() -> dict[str, NDArray[np.generic]]:
    """Rows in splits, each labelled with what the classifier answers: it scores 100 %."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for seed, (split, rows) in enumerate(SPLIT_ROWS.items(), start=100):
        arrays[f"{split}/x"] = small_rows(rows, seed)
        arrays[f"{split}/label"] = small_scores(small_rows(rows, seed)).argmax(axis=1)
    return arrays


@pytest.fixture
def small_data(tmp_path: Path, small_arrays: dict[str, NDArray[np.generic]]) -> Path:
    path = tmp_path / "small.npz"
    np.savez(path, **small_arrays)  # type: ignore[arg-type]
    return path
