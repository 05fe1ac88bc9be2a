"""The proof: what was asked beside what the library says it made, and the refusal where they differ."""

from pathlib import Path

import pytest

from enginehouse.errors import EngineFailed, NotSupported
from enginehouse.evidence import EngineProof
from enginehouse.tensor import Tensors
from optimizer.build.open_artifact import Artifact
from optimizer.build.read_back import precision_problem, read_back
from optimizer.graph.graph import Graph
from optimizer.lower.half import lower_to_half
from optimizer.trial import EngineName, Hint, Precision
from tests.optimizer.build.small_nets import (
    blocked_product,
    dynamic_product,
    images,
    perceptron,
    quantized_convolution,
    residual,
    rows,
)

WIDE = dict.fromkeys(("x", "h", "r", "p"), (-100.0, 100.0))


def proof(
    graph: Graph, feeds: Tensors, folder: Path, engine: EngineName = "onnxruntime", hint: Hint = "f32"
) -> EngineProof:
    path = folder / "model.onnx"
    graph.save(path)
    return read_back(Artifact(path, engine, hint), feeds, threads=1)


def half(precision: str) -> Graph:
    found = lower_to_half(perceptron(), precision, None, WIDE)  # type: ignore[arg-type]
    assert isinstance(found, Graph)
    return found


def has(capability: str) -> bool:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return capability in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_shares_count_the_layers_that_multiply_and_the_time_of_all(tmp_path: Path) -> None:
    found = proof(perceptron(), rows(), tmp_path)
    assert found.layer_share == {"fp32": 1.0}
    assert found.time_share == {"fp32": 1.0}
    assert found.kept == {}
    assert len(found.layers) > 2


@pytest.mark.parametrize(
    ("graph", "feeds", "precision"),
    [
        (quantized_convolution(True), images(), "int8"),
        (dynamic_product(), rows(), "int8_dynamic"),
        (blocked_product(), rows(), "int4"),
        (perceptron(), rows(), "fp32"),
    ],
    ids=["int8", "int8_dynamic", "int4", "fp32"],
)
def test_what_onnx_runtime_computes_as_asked_is_no_problem(
    tmp_path: Path, graph: Graph, feeds: Tensors, precision: Precision
) -> None:
    found = proof(graph, feeds, tmp_path)
    assert found.layer_share == {precision: 1.0}
    assert found.kept == {}
    assert precision_problem(found, precision) == ""


def test_fp16_that_onnx_runtime_computes_in_fp32_is_told(tmp_path: Path) -> None:
    found = proof(half("fp16"), rows(), tmp_path)
    if found.layer_share.get("fp16"):
        pytest.skip("this CPU has FP16 kernels")
    reason = "ONNX Runtime has no FP16 kernel for FusedGemm here and computes in FP32"
    assert found.kept["first"] == reason
    assert set(found.kept) == {"first", "second"}
    assert precision_problem(found, "fp16") == (
        f"asked for FP16, and no computing layer runs in it (100% FP32), because {reason}"
    )


def test_bf16_that_onnx_runtime_has_no_kernel_for_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"NOT_IMPLEMENTED.*Gemm"):
        proof(half("bf16"), rows(), tmp_path)


def test_pairs_that_are_not_fused_are_told(tmp_path: Path) -> None:
    found = proof(quantized_convolution(False), images(), tmp_path)
    assert found.kept == {"conv": "ONNX Runtime did not fuse the Q/DQ pairs around it and computes Conv in FP32"}
    assert "because ONNX Runtime did not fuse the Q/DQ pairs" in precision_problem(found, "int8")


def test_openvino_computes_pairs_in_integers_and_the_rest_by_its_hint(tmp_path: Path) -> None:
    if not has("INT8"):
        pytest.skip("this CPU has no INT8 instructions")
    found = proof(quantized_convolution(True), images(), tmp_path, "openvino")
    assert found.layer_share == {"int8": 1.0}
    assert precision_problem(found, "int8") == ""


@pytest.mark.parametrize(("hint", "precision"), [("f32", "fp32"), ("bf16", "bf16"), ("f16", "fp16")])
def test_a_hint_is_proven_or_refused(tmp_path: Path, hint: Hint, precision: Precision) -> None:
    """A CPU without the precision gets another one without a word from OpenVINO: here it is told."""
    is_there = has(precision.upper())
    found = proof(residual(), images(), tmp_path, "openvino", hint)
    if is_there:
        assert found.layer_share == {precision: 1.0}
        assert found.kept == {}
    else:
        assert precision not in found.layer_share
        assert f"on this CPU where {precision.upper()} was asked for" in found.kept["first"]
    assert (precision_problem(found, precision) == "") == is_there


def test_a_plan_is_proven_where_it_is_built(tmp_path: Path) -> None:
    perceptron().save(tmp_path / "model.plan")
    with pytest.raises(NotSupported, match=r"model\.plan is a plan"):
        read_back(Artifact(tmp_path / "model.plan", "tensorrt"), rows(), 1)


def made(layer_share: dict[str, float], kept: dict[str, str] | None = None) -> EngineProof:
    return EngineProof(layers=(), layer_share=layer_share, kept=kept or {})


def test_a_mixture_is_what_was_asked_as_long_as_some_layer_is() -> None:
    assert precision_problem(made({"fp32": 0.9, "int8": 0.1}), "int8") == ""
    assert precision_problem(made({"fp32": 0.9, "int8": 0.1}), "fp16") == (
        "asked for FP16, and no computing layer runs in it (90% FP32, 10% INT8)"
    )


def test_a_model_without_computing_layers_computes_in_nothing_lower() -> None:
    assert precision_problem(made({}), "fp32") == ""
    assert precision_problem(made({}), "int8") == "asked for INT8, and no computing layer runs in it (there is none)"
