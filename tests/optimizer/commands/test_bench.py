import io
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from enginehouse.errors import InvalidInput
from optimizer.commands.bench import bench_models
from tests.service.conftest import make_scale_model


def save_slow(path: Path, rounds: int = 200) -> None:
    """A scale of one that passes through many large products on its way."""
    nodes = [helper.make_node("MatMul", ["x", "wide"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{number}", "square"], [f"h{number + 1}"]) for number in range(rounds)]
    nodes.append(helper.make_node("MatMul", [f"h{rounds}", "narrow"], ["y"]))
    weights = [
        helper.make_tensor("wide", TensorProto.FLOAT, [2, 128], [0.0] * 256),
        helper.make_tensor("square", TensorProto.FLOAT, [128, 128], [0.0] * 128 * 128),
        helper.make_tensor("narrow", TensorProto.FLOAT, [128, 2], [0.0] * 256),
    ]
    fast = make_scale_model(1.0)
    graph = helper.make_graph(nodes, "slow", list(fast.graph.input), list(fast.graph.output), weights)
    onnx.save(helper.make_model(graph, opset_imports=list(fast.opset_import), ir_version=10), path)


def lines(models: list[Path], **options: object) -> list[list[str]]:
    file = io.StringIO()
    names = [str(model) for model in models]
    Console(file=file, width=160).print(bench_models(names, Path("none"), seconds=0.05, **options))  # type: ignore[arg-type]
    return [line.split() for line in file.getvalue().splitlines()]


def test_the_faster_model_shows_as_faster(tmp_path: Path) -> None:
    fast, slow = tmp_path / "fast.onnx", tmp_path / "slow.onnx"
    onnx.save(make_scale_model(1.0), fast)
    save_slow(slow)
    head, first, second, about = lines([slow, fast], batch_sizes=(1, 4))
    assert head[1:7] == ["ms", "at", "1", "ms", "at", "4"]
    assert float(first[1]) > float(second[1])
    assert first[-1] == "–"
    assert float(second[-3].removesuffix("×").replace(",", "")) > 2
    assert "rounds," in about


def test_one_model_alone_has_its_medians(tmp_path: Path) -> None:
    path = tmp_path / "scale.onnx"
    onnx.save(make_scale_model(1.0), path)
    _, row, _ = lines([path], batch_sizes=(1,))
    assert float(row[1]) > 0


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one model, and batch sizes of at least 1"):
        bench_models([], tmp_path)
    with pytest.raises(InvalidInput, match="batch sizes of at least 1"):
        bench_models(["m"], tmp_path, batch_sizes=(0,))
