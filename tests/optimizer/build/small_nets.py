"""Graphs in every precision, by hand: small enough to be read whole."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph

ROWS = 4
SIZE = 32


def graph_of(nodes: Sequence[NodeProto], weights: dict[str, Array], output: str, opset: int = 21) -> Graph:
    """From `x` [n, 32] or [n, 2, 8, 8] to one FP32 output."""
    is_image = any(node.op_type == "Conv" for node in nodes)
    shape: list[str | int] = ["n", 2, 8, 8] if is_image else ["n", SIZE]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return Graph(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def random_array(*shape: int, seed: int = 0) -> Array:
    array: Array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return array


def rows() -> Tensors:
    return {"x": random_array(ROWS, SIZE, seed=9)}


def images() -> Tensors:
    return {"x": random_array(ROWS, 2, 8, 8, seed=9)}


def perceptron() -> Graph:
    """Two layers with a Relu between them and a Softmax behind."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["p"], "second"),
        helper.make_node("Softmax", ["p"], ["y"], "softmax"),
    ]
    weights = {"w1": random_array(SIZE, SIZE, seed=1), "b1": random_array(SIZE, seed=2)}
    return graph_of(nodes, weights | {"w2": random_array(SIZE, SIZE, seed=3)}, "y")


def residual() -> Graph:
    """Two convolutions, the second added to the first, and a Relu after each."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["y"], "last"),
    ]
    weights = {"w1": random_array(16, 2, 3, 3, seed=1), "b1": random_array(16, seed=2)}
    weights |= {"w2": random_array(16, 16, 3, 3, seed=3), "b2": random_array(16, seed=4)}
    return graph_of(nodes, weights, "y")


def quantized_convolution(is_output_quantized: bool) -> Graph:
    """Conv and Relu on U8 and S8; without a pair behind it nothing tells ONNX Runtime to compute in integers."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], "w_dq", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv", pads=[1, 1, 1, 1]),
    ]
    if is_output_quantized:
        nodes += [
            helper.make_node("QuantizeLinear", ["c", "so", "z"], ["cq"], "c_q"),
            helper.make_node("DequantizeLinear", ["cq", "so", "z"], ["y"], "c_dq"),
        ]
    else:
        nodes.append(helper.make_node("Softmax", ["c"], ["y"], "softmax"))
    weights: dict[str, Array] = {
        "s": np.array(0.04, np.float32),
        "so": np.array(0.2, np.float32),
        "z": np.array(128, np.uint8),
        "wq": np.random.default_rng(1).integers(-127, 128, (16, 2, 3, 3)).astype(np.int8),
        "sw": np.full(16, 0.01, np.float32),
        "zw": np.zeros(16, np.int8),
    }
    return graph_of(nodes, weights, "y")


def quantized_product() -> Graph:
    """MatMul on U8 and S8 whose result is read as a float."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], "w_dq"),
        helper.make_node("MatMul", ["xd", "wd"], ["p"], "product"),
        helper.make_node("Softmax", ["p"], ["y"], "softmax"),
    ]
    weights: dict[str, Array] = {
        "s": np.array(0.04, np.float32),
        "z": np.array(128, np.uint8),
        "wq": np.random.default_rng(1).integers(-127, 128, (SIZE, SIZE)).astype(np.int8),
        "sw": np.array(0.01, np.float32),
        "zw": np.array(0, np.int8),
    }
    return graph_of(nodes, weights, "y")


def dynamic_product() -> Graph:
    """MatMul that finds the range of its rows as it runs, as ONNX writes it."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "sx", "zx"], "x_q"),
        helper.make_node("MatMulInteger", ["xq", "wq", "zx", "zw"], ["i"], "product"),
        helper.make_node("Cast", ["i"], ["f"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sx", "sw"], ["scale"], "scales"),
        helper.make_node("Mul", ["f", "scale"], ["y"], "scaled"),
    ]
    weights: dict[str, Array] = {
        "wq": np.random.default_rng(1).integers(-127, 128, (SIZE, SIZE)).astype(np.int8),
        "zw": np.array(0, np.int8),
        "sw": np.array(0.01, np.float32),
    }
    return graph_of(nodes, weights, "y")


def blocked_product() -> Graph:
    """MatMul with weights of four bits in blocks of 16, ONNX Runtime's own operator."""
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], "product", domain="com.microsoft", K=SIZE, N=SIZE, bits=4, block_size=16
    )
    weights: dict[str, Array] = {
        "w": np.random.default_rng(1).integers(0, 256, (SIZE, 2, 8)).astype(np.uint8),
        "s": np.full(SIZE * 2, 0.1, np.float32),
    }
    return graph_of([node], weights, "y")


def recurrent() -> Graph:
    """An LSTM over eight steps of four numbers, and a layer on what it remembers at the end."""
    nodes = [
        helper.make_node("Reshape", ["x", "steps"], ["s"], "steps"),
        helper.make_node("Transpose", ["s"], ["t"], "transpose", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r"], ["", "h"], "lstm", hidden_size=16),
        helper.make_node("Squeeze", ["h", "axis"], ["m"], "squeeze"),
        helper.make_node("MatMul", ["m", "v"], ["y"], "product"),
    ]
    weights: dict[str, Array] = {
        "steps": np.array([-1, 8, 4]),
        "axis": np.array([0]),
        "w": random_array(1, 64, 4, seed=1),
        "r": random_array(1, 64, 16, seed=2) * np.float32(0.2),
        "v": random_array(16, 16, seed=3),
    }
    return graph_of(nodes, weights, "y")
