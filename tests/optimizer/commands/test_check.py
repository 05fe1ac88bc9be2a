"""`check` prints every node that an engine's library cannot take."""

import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from rich.console import Console, RenderableType

from enginehouse.errors import InvalidInput, MissingExtra
from optimizer.commands.check import check_model
from optimizer.graph.graph import Graph
from tests.conftest import DIGITS
from tests.tensorrt_builder_fakes import Told, fake_tensorrt
from tests.tensorrt_fakes import FakeCuda


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one node that everybody takes, one that nobody takes, and one that only ONNX Runtime does."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="plain"),
        helper.make_node("Det", ["a"], ["b"], name="determinant"),
        helper.make_node("Strange", ["b"], ["y"], name="foreign", domain="com.example"),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph(nodes, "g", [value], [output])
    path = tmp_path / "strange.onnx"
    Graph(helper.make_model(graph, opset_imports=opsets, ir_version=10)).save(path)
    return path


def text_of(report: RenderableType) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_every_unsupported_node_stands_in_the_table_with_its_reason(model: Path) -> None:
    report = check_model(model, "onnxruntime")
    assert not report.is_supported
    lines = text_of(report.report).splitlines()
    assert lines[1].split(maxsplit=2) == [
        "foreign",
        "com.example.Strange",
        "ONNX Runtime has no kernel for it on the CPU",
    ]
    assert lines[-1] == "onnxruntime cannot take strange.onnx: 1 of its 3 nodes or tensors."


def test_a_model_that_is_taken_whole_is_said_to_be() -> None:
    report = check_model(DIGITS / "digits.onnx", "onnxruntime")
    assert report.is_supported
    assert text_of(report.report) == "onnxruntime takes every one of the 25 nodes of digits.onnx.\n"


def test_an_unknown_engine_is_refused_with_the_known_ones(model: Path) -> None:
    with pytest.raises(InvalidInput, match="--for tflite is unknown; expected one of onnxruntime, openvino, tensorrt"):
        check_model(model, "tflite")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "not.onnx").write_bytes(b"not a model")
    with pytest.raises(InvalidInput, match="damaged or not an ONNX model"):
        check_model(tmp_path / "not.onnx", "onnxruntime")


def test_without_either_library_the_one_that_was_asked_for_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt\]"):
        check_model(model, "tensorrt")
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt-rtx\]"):
        check_model(model, "tensorrt-rtx")


def test_tensorrt_answers_for_itself_where_it_is(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(FakeCuda(), Told()))
    text = text_of(check_model(model, "tensorrt").report)
    assert "TensorRT has no Det" in text
    assert "Asked was" not in text


@pytest.mark.rtx
def test_tensorrt_rtx_answers_for_tensorrt_and_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    report = check_model(model, "tensorrt")
    text = " ".join(text_of(report.report).split())
    assert not report.is_supported
    assert "determinant Det TensorRT-RTX has no Det" in text
    assert "foreign Strange TensorRT-RTX knows no operator and no plugin Strange" in text
    assert "Asked was TensorRT-RTX, because TensorRT cannot be asked on this machine" in text


@pytest.mark.rtx
def test_tensorrt_rtx_takes_the_digits_network() -> None:
    report = check_model(DIGITS / "digits.onnx", "tensorrt-rtx")
    assert report.is_supported
    assert text_of(report.report).startswith("TensorRT-RTX takes every one of the 25 nodes")
