"""Graphs by hand, and the ranges that their tensors have on some feeds."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph
from optimizer.graph.shapes import infer_shapes, value_types

Ranges = dict[str, tuple[float, float]]


def make_graph(
    nodes: Sequence[NodeProto],
    weights: dict[str, Array],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str] | None],
    opset: int = 20,
) -> Graph:
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def observe(graph: Graph, feeds: Sequence[Tensors]) -> Ranges:
    """Lowest and highest value of every FP32 tensor, by making each an output."""
    model: ModelProto = graph.copy()
    outputs = {value.name for value in model.graph.output}
    types = value_types(infer_shapes(model, is_strict=False))
    computed = [name for node in model.graph.node for name in node.output if name in types]
    floats = [name for name in computed if types[name].tensor_type.elem_type == TensorProto.FLOAT]
    model.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in floats if n not in outputs
    )
    ranges: Ranges = {}
    for feed, found in zip(feeds, run_graph(Graph(model), feeds, optimize=False), strict=True):
        for name, array in {**feed, **found}.items():
            if array.dtype == np.float32 and array.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return ranges


def random_array(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    array: Array = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
    return array


@pytest.fixture
def chain() -> Graph:
    """Conv, Relu, Conv, Add of both, mean, Gemm, Softmax: what lies between layers, and what stays FP32 by rule."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r1", "c2"], ["sum"], "add"),
        helper.make_node("ReduceMean", ["sum", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "w3", "b3"], ["scores"], "third"),
        helper.make_node("Softmax", ["scores"], ["y"], "softmax"),
    ]
    weights: dict[str, Array] = {
        "w1": random_array(8, 3, 3, 3, seed=1, scale=0.3),
        "b1": random_array(8, seed=2),
        "w2": random_array(8, 8, 3, 3, seed=3, scale=0.2),
        "axes": np.array([2, 3], np.int64),
        "w3": random_array(8, 4, seed=4),
        "b3": random_array(4, seed=5),
    }
    return make_graph(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 4]})


@pytest.fixture
def chain_feeds() -> list[Tensors]:
    return [{"x": random_array(4, 3, 8, 8, seed=seed)} for seed in (10, 11)]
