"""Plans that TensorRT-RTX really builds, with no GPU: the digits CNN, a ResNet-50 and a BERT, for three GPUs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.bert import build_bert
from benchmarks.resnet50 import build_resnet50
from enginehouse.errors import EngineFailed, InvalidInput, Unsupported
from enginehouse.tensor import Tensors
from optimizer.build.tensorrt_build import PlanRequest, build_plan, plan_target, targets_in_plan
from optimizer.build.tensorrt_network import Shapes
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import layers_of, named_graph
from optimizer.graph.run import run_graph
from optimizer.graph.shapes import infer_shapes, value_types
from optimizer.lower.half import lower_to_half
from optimizer.quantize.int4 import quantize_int4
from optimizer.quantize.int8 import plan_int8, quantize_int8
from optimizer.quantize.opset import with_quantizable_opset
from tests.conftest import DIGITS

pytestmark = pytest.mark.rtx

PRECISIONS = ("fp32", "fp16", "int8")
CAPABILITIES = ("8.6", "8.9", "12.0")
BATCH = (1, 8, 32)
SEQUENCES: dict[str, Shapes] = {"tokens": ((1, 1), (8, 128), (32, 512))}


def _digits() -> tuple[Graph, Tensors]:
    rows = np.load(DIGITS / "digits.npz")["calibration/pixels"][:32]
    return load_graph(DIGITS / "digits.onnx"), {"pixels": rows}


def _resnet() -> tuple[Graph, Tensors]:
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    return Graph(build_resnet50()), {"images": images}


def _bert() -> tuple[Graph, Tensors]:
    return Graph(build_bert()), {"tokens": np.random.default_rng(0).integers(0, 30000, (1, 16))}


MODELS: dict[str, Callable[[], tuple[Graph, Tensors]]] = {"digits": _digits, "resnet50": _resnet, "bert": _bert}


@cache
def graph_in(model: str, precision: str) -> Graph:
    """One of the models in one precision, its ranges those of a few rows."""
    source, feeds = MODELS[model]()
    graph = named_graph(source)
    if precision == "fp32":
        return graph
    ranges = _ranges(graph, feeds)
    if precision == "fp16":
        lowered = lower_to_half(graph, "fp16", None, ranges)
        assert isinstance(lowered, Graph), lowered
        return lowered
    plan = plan_int8(graph)
    assert not isinstance(plan, Declined), plan
    wanted = {name: ranges[name] for name in plan.tensors if name in ranges}
    quantized = quantize_int8(graph, plan, wanted, "s8s8")
    assert isinstance(quantized, Graph), quantized
    return quantized


def _ranges(graph: Graph, feeds: Tensors) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every FP32 tensor."""
    model = graph.copy()
    floats = {
        name
        for name, found in value_types(infer_shapes(model, is_strict=False)).items()
        if found.tensor_type.elem_type == TensorProto.FLOAT
    }
    declared = {value.name for value in (*model.graph.output, *model.graph.input)}
    for name in sorted(floats - declared):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (outputs,) = run_graph(Graph(model), [feeds], optimize=False)
    seen = {**feeds, **outputs}
    return {name: (float(array.min()), float(array.max())) for name, array in seen.items() if name in floats}


def request(graph: Graph, capability: str = "8.9", **options: Any) -> PlanRequest:
    shapes = SEQUENCES if any(spec.name == "tokens" for spec in graph.inputs) else {}
    return PlanRequest(graph, "tensorrt-rtx", capability, BATCH, shapes, **options)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_plan_is_built_for_its_gpu_and_computes_in_what_was_asked_for(
    model: str, precision: str, capability: str, tmp_path: Path
) -> None:
    graph = graph_in(model, precision)
    path = tmp_path / "model.plan"
    proof = build_plan(request(graph, capability), path)
    assert targets_in_plan(path.read_bytes()) == {capability}
    assert list(tmp_path.iterdir()) == [path]
    assert proof.kept == {}
    # The products of attention have no weights, and stay in float beside integers.
    weighted = {layer.name for layer in layers_of(graph_in(model, "fp32"))}
    products = [node for node in graph.model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    share = len(weighted) / len(products)
    expected = {"int8": share, "fp32": 1 - share} if precision == "int8" and share < 1 else {precision: 1.0}
    assert proof.layer_share == pytest.approx(expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_of_the_digits_network_is_found_in_the_engine(precision: str, tmp_path: Path) -> None:
    proof = build_plan(request(graph_in("digits", precision)), tmp_path / "model.plan")
    named = {name for layer in proof.layers for name in layer.source_nodes}
    assert {layer.name for layer in layers_of(graph_in("digits", "fp32"))} <= named


@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_the_other_precisions_are_read_back_too(precision: str, tmp_path: Path) -> None:
    source = named_graph(load_graph(DIGITS / "digits_mlp.onnx"))
    newer = with_quantizable_opset(source)
    assert isinstance(newer, Graph)
    layers = [layer.name for layer in layers_of(source)]
    graph = lower_to_half(source, "bf16", None, {}) if precision == "bf16" else quantize_int4(newer, layers, "qdq")
    assert isinstance(graph, Graph), graph
    proof = build_plan(request(graph), tmp_path / "model.plan")
    assert (proof.layer_share, proof.kept) == ({precision: 1.0}, {})


def test_it_is_read_back_what_was_fused_into_what(tmp_path: Path) -> None:
    proof = build_plan(request(graph_in("digits", "fp32")), tmp_path / "model.plan")
    fused = [set(layer.source_nodes) for layer in proof.layers]
    assert any({"node_conv2d", "node_relu"} <= nodes for nodes in fused)


def test_an_engine_is_smaller_in_a_lower_precision(tmp_path: Path) -> None:
    sizes = {}
    for precision in PRECISIONS:
        build_plan(request(graph_in("resnet50", precision)), tmp_path / precision)
        sizes[precision] = (tmp_path / precision).stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.4 * sizes["fp32"]


def test_fp32_is_not_tf32(tmp_path: Path) -> None:
    build_plan(request(graph_in("digits", "fp32")), tmp_path / "model.plan")
    plan = (tmp_path / "model.plan").read_bytes()
    assert b"tf32=0" in plan
    assert b"tf32=1" not in plan


def test_a_plan_for_later_gpus_too_names_them(tmp_path: Path) -> None:
    build_plan(request(graph_in("digits", "fp16"), "8.6", hardware_compatible=True), tmp_path / "model.plan")
    assert targets_in_plan((tmp_path / "model.plan").read_bytes()) >= {"8.6", "8.9", "12.0"}


def test_a_gpu_that_the_library_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no plans for compute capability 9\.0; it builds for 7\.5, 8\.0, 8\.6"):
        build_plan(request(graph_in("digits", "fp32"), "9.0"), tmp_path / "model.plan")


def test_plans_of_this_library_are_bound_to_its_release(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only plans of its own release"):
        build_plan(request(graph_in("digits", "fp32"), version_compatible=True), tmp_path / "model.plan")
    assert list(plan_target(request(graph_in("digits", "fp32"))).libraries) == ["tensorrt-rtx"]


def test_an_open_sequence_without_bounds_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'tokens' .* a plan must know how far"):
        build_plan(PlanRequest(graph_in("bert", "fp32"), "tensorrt-rtx", "8.9", BATCH), tmp_path / "model.plan")


def test_what_cannot_be_built_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    graph = Graph(_model([helper.make_node("Det", ["x"], ["y"], name="d")]))
    with pytest.raises(Unsupported, match="TensorRT-RTX cannot build this graph: Det 'd': TensorRT-RTX has no Det"):
        build_plan(request(graph), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


def test_what_the_builder_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """Turing has no kernel for some products of FP32: the parser takes them, the builder does not."""
    with pytest.raises(EngineFailed, match=r"for compute capability 7\.5: .*Error Code \d+"):
        build_plan(request(graph_in("digits", "fp32"), "7.5"), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


def _model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
