from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.quantize.int8 import QuantizationPlan, plan_int8, quantize_int8
from optimizer.trial import Scheme

X = np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32)


def planned(graph: Graph) -> QuantizationPlan:
    plan = plan_int8(graph)
    assert isinstance(plan, QuantizationPlan)
    return plan


def observed(
    graph: Graph, tensors: tuple[str, ...], feeds: dict[str, Array], workdir: Path
) -> dict[str, tuple[float, float]]:
    model = graph.copy()
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in known
    )
    values = {**feeds, **run(Graph(model), workdir / "observed.onnx", feeds)}
    return {name: (float(values[name].min()), float(values[name].max())) for name in tensors}


def quantized(graph: Graph, workdir: Path, feeds: dict[str, Array], scheme: Scheme = "u8s8") -> Graph:
    plan = planned(graph)
    found = quantize_int8(graph, plan, observed(graph, plan.tensors, feeds, workdir), scheme)
    assert isinstance(found, Graph)
    return found


def run(graph: Graph, path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    graph.save(path)
    return dict(OnnxRuntimeEngine(path).run(feeds))


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], shape: tuple[int | str, ...], opset: int) -> Graph:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def small_conv() -> Graph:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["y"], kernel_shape=[3, 3]),
    ]
    scales = np.logspace(-2, 0, 8)[:, None, None, None]
    weights = {
        "w": random.standard_normal((8, 3, 3, 3)) * scales,
        "b": random.standard_normal(8),
        "v": random.standard_normal((4, 8, 3, 3)),
    }
    return graph_of(nodes, weights, ("batch", 3, 8, 8), 20)


def test_outputs_stay_near(small_graph: Graph, tmp_path: Path) -> None:
    found = run(quantized(small_graph, tmp_path, {"x": X}), tmp_path / "q.onnx", {"x": X})["scores"]
    expected = run(small_graph, tmp_path / "s.onnx", {"x": X})["scores"]
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_activations_are_u8_with_zero_point_and_weights_s8_per_channel(tmp_path: Path) -> None:
    feeds: dict[str, Array] = {"x": np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)}
    model = quantized(small_conv(), tmp_path, feeds).model
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantize = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantize
    assert all(weights[node.input[2]].dtype == np.uint8 for node in quantize)
    eight_bit = {name: array for name, array in weights.items() if array.dtype == np.int8 and array.ndim == 4}
    assert len(eight_bit) == 2
    first = next(node for node in model.graph.node if node.input and node.input[0] == "w/integers")
    assert weights[first.input[1]].shape == (8,)
    assert not weights[first.input[2]].any()


def test_a_chain_stays_in_eight_bits(tmp_path: Path) -> None:
    feeds: dict[str, Array] = {"x": np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)}
    counts = quantized(small_conv(), tmp_path, feeds).op_counts()
    assert counts["QuantizeLinear"] == 4


def test_the_given_graph_stays_as_it_is(small_graph: Graph, tmp_path: Path) -> None:
    before = small_graph.fingerprint()
    quantized(small_graph, tmp_path, {"x": X})
    assert small_graph.fingerprint() == before


def test_nothing_to_quantize_is_declined() -> None:
    found = plan_int8(graph_of([helper.make_node("Relu", ["x"], ["y"])], {}, ("batch", 4), 20))
    assert found == Declined("no Conv, Gemm or MatMul with FP32 weights to quantize")


def test_a_product_of_two_activations_is_left_alone() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    assert isinstance(plan_int8(graph_of(nodes, {}, (4, 4), 20)), Declined)


def test_an_old_opset_is_declined_with_what_is_needed() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    found = plan_int8(graph_of(nodes, {"w": np.ones((4, 4))}, ("batch", 4), 12))
    assert isinstance(found, Declined)
    assert "13 or later is needed" in found.reason


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_ranges_that_are_not_finite_are_declined(small_graph: Graph, bad: float) -> None:
    plan = planned(small_graph)
    ranges = dict.fromkeys(plan.tensors, (0.0, bad))
    found = quantize_int8(small_graph, plan, ranges, "u8s8")
    assert isinstance(found, Declined)
    assert "was not finite" in found.reason


def test_a_graph_that_the_library_cannot_treat_is_declined(small_graph: Graph) -> None:
    plan = planned(small_graph)
    found = quantize_int8(small_graph, plan, {"x": (0.0, 1.0)}, "u8s8")
    assert isinstance(found, Declined)
    assert found.reason == "tensor 'hidden' was not observed"


def test_nodes_without_names_can_be_quantized(small_graph: Graph, tmp_path: Path) -> None:
    assert not any(node.name for node in small_graph.model.graph.node)
    assert quantized(small_graph, tmp_path, {"x": X}).op_counts()["DequantizeLinear"] > 0
