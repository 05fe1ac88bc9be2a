import io
from pathlib import Path

import onnx
import pytest
from onnx import helper
from rich.console import Console

from optimizer.commands.compare import compare_models


@pytest.fixture
def other_model(small_model: Path, tmp_path: Path) -> Path:
    """The classifier with a step more: all its scores are higher by the same, so its classes are the same."""
    model = onnx.load(small_model)
    model.graph.node[-1].output[0] = "before"
    model.graph.initializer.append(helper.make_tensor("shift", onnx.TensorProto.FLOAT, [], [0.5]))
    model.graph.node.append(helper.make_node("Add", ["before", "shift"], ["scores"]))
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    return path


def compared(first: Path, second: Path, data: Path | None = None) -> str:
    file = io.StringIO()
    report = compare_models(str(first), str(second), Path("none"), str(data) if data else None, seconds=0.05)
    Console(file=file, width=160).print(report)
    return " ".join(file.getvalue().split())


def test_structure_answers_and_speed_stand_side_by_side(small_model: Path, other_model: Path, small_data: Path) -> None:
    told = compared(small_model, other_model, small_data)
    assert "nodes 4 5" in told
    assert "parameters 131 132" in told
    assert " Add 1 2" in told
    assert "MatMul" not in told  # both have one
    assert "top1 100.00% → 100.00%" in told
    assert "output scores differs by up to 0.5" in told
    assert "ms at 1 ms at 8" in told


def test_without_data_only_answers_to_seeded_rows_are_compared(small_model: Path, other_model: Path) -> None:
    told = compared(small_model, other_model)
    assert "answers to seeded synthetic rows" in told
    assert "output scores differs by up to 0.5" in told
    assert "→" not in told


def test_a_model_does_not_differ_from_itself(small_model: Path) -> None:
    told = compared(small_model, small_model)
    assert "differs by up to 0 " in told
    assert "worst row" not in told


def test_answers_of_another_shape_are_told_and_not_scored(small_model: Path, tmp_path: Path, small_data: Path) -> None:
    model = onnx.load(small_model)
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Transpose", ["before"], ["scores"], perm=[1, 0]))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "scores"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "batch"
    onnx.save(model, tmp_path / "turned.onnx")
    told = compared(small_model, tmp_path / "turned.onnx", small_data)
    assert "output scores differs by up to ∞" in told
    assert "top1" not in told
