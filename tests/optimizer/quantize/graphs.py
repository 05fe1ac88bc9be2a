"""Small graphs of every kind that is quantized, and what the tests ask of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph
from optimizer.quantize.int8 import QuantizationPlan, plan_int8, quantize_int8
from optimizer.trial import EngineName, Scheme

_RANDOM = np.random.default_rng(0)
_START = _RANDOM.bit_generator.state


def restart_weights() -> None:
    """Let `weight` give the same numbers in a test, whichever tests ran before it."""
    _RANDOM.bit_generator.state = _START


def graph_of(
    nodes: Sequence[NodeProto], weights: Mapping[str, Array], shape: Sequence[int | str], opset: int = 20
) -> Graph:
    """From FP32 `x` of this shape to FP32 `y`; weights that are no integers become FP32."""
    arrays = {name: array if array.dtype == np.int64 else array.astype(np.float32) for name, array in weights.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return Graph(model)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """A node named after its output; inputs are separated by spaces."""
    return helper.make_node(operator, inputs.split(), [output], name=f"{output}_node", **attributes)


def conv(inputs: str, output: str, kernel: int = 3, **attributes: Any) -> NodeProto:
    return node("Conv", inputs, output, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, **attributes)


def weight(*shape: int) -> Array:
    """Normal, of a spread that keeps values at their size; channels differ a hundredfold in theirs."""
    spread = np.logspace(-1, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1)) if len(shape) == 4 else 1.0
    return np.asarray(_RANDOM.standard_normal(shape) * spread / np.sqrt(np.prod(shape[1:]) or 1), np.float32)


def images(rows: int = 4, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, 3, 8, 8)).astype(np.float32)}


def chain() -> Graph:
    """Two convolutions with an activation and a pool between them."""
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        conv("p v", "y"),
    ]
    return graph_of(nodes, {"w": weight(8, 3, 3, 3), "b": weight(8), "v": weight(4, 8, 3, 3)}, ("n", 3, 8, 8))


def residual() -> Graph:
    """A stem, a bottleneck around which its input goes, a projected shortcut, and a classifier."""
    nodes = [
        conv("x w0 b0", "c0"),
        node("Clip", "c0 zero six", "r0"),
        conv("r0 w1", "c1"),
        node("Relu", "c1", "r1"),
        conv("r1 w2 b2", "c2"),
        node("Add", "c2 r0", "a2"),
        node("Relu", "a2", "r2"),
        conv("r2 w3", "c3"),
        conv("r2 w4", "c4", kernel=1),
        node("Add", "c3 c4", "a4"),
        node("Relu", "a4", "r4"),
        node("GlobalAveragePool", "r4", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w5 b5", "y", transB=1),
    ]
    weights = {"w0": weight(8, 3, 3, 3), "b0": weight(8), "w1": weight(8, 8, 3, 3), "w2": weight(8, 8, 3, 3)}
    weights |= {"b2": weight(8), "w3": weight(16, 8, 3, 3), "w4": weight(16, 8, 1, 1)}
    weights |= {"w5": weight(5, 16), "b5": weight(5), "zero": np.array(0.0), "six": np.array(6.0)}
    return graph_of(nodes, weights, ("n", 3, 8, 8))


def depthwise() -> Graph:
    nodes = [conv("x w", "c", kernel=1), conv("c d", "e", group=6), node("Relu", "e", "r"), conv("r v", "y", kernel=1)]
    return graph_of(nodes, {"w": weight(6, 3, 1, 1), "d": weight(6, 1, 3, 3), "v": weight(4, 6, 1, 1)}, ("n", 3, 8, 8))


def concatenated() -> Graph:
    nodes = [conv("x w", "a"), conv("x v", "b", kernel=1), node("Concat", "a b", "c", axis=1), conv("c u", "y")]
    return graph_of(nodes, {"w": weight(4, 3, 3, 3), "v": weight(4, 3, 1, 1), "u": weight(4, 8, 3, 3)}, ("n", 3, 8, 8))


def gated() -> Graph:
    """SiLU, and a squeeze-and-excitation block."""
    nodes = [
        conv("x w", "c"),
        node("Sigmoid", "c", "s"),
        node("Mul", "c s", "m"),
        conv("m v", "d"),
        node("Relu", "d", "r"),
        node("GlobalAveragePool", "r", "g"),
        conv("g t", "e", kernel=1),
        node("Sigmoid", "e", "f"),
        node("Mul", "r f", "h"),
        conv("h u", "y", kernel=1),
    ]
    weights = {"w": weight(6, 3, 3, 3), "v": weight(6, 6, 3, 3), "t": weight(6, 6, 1, 1), "u": weight(4, 6, 1, 1)}
    return graph_of(nodes, weights, ("n", 3, 8, 8))


def gemms() -> Graph:
    """A weight either way round, shared by two layers, and a bias of each kind."""
    nodes = [
        node("Gemm", "x w b", "h", transB=1),
        node("Relu", "h", "r"),
        node("Gemm", "r v c", "i", alpha=0.5, beta=2.0),
        node("Gemm", "i v", "j"),
        node("Gemm", "j w d", "k", transB=1),
        node("MatMul", "k u", "y"),
    ]
    weights = {"w": weight(8, 8), "v": weight(8, 8), "b": weight(8), "c": weight(1, 8), "d": np.array(0.3)}
    return graph_of(nodes, weights | {"u": weight(8, 3)}, ("n", 8))


def rows(width: int = 8, count: int = 16, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)}


def transformer() -> Graph:
    """One block: attention with its shapes, residual additions, norms, and a feed-forward part."""
    nodes = [node("LayerNormalization", "x s t", "n")]
    for name in "qkv":
        nodes += [node("MatMul", f"n w{name}", name), node("Add", f"{name} b{name}", f"{name}1")]
        nodes.append(node("Reshape", f"{name}1 heads", f"{name}2"))
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(node("Transpose", f"{name}2", f"{name}3", perm=order))
    nodes += [
        node("MatMul", "q3 k3", "scores"),
        node("Softmax", "scores", "shares", axis=-1),
        node("MatMul", "shares v3", "mixed"),
        node("Transpose", "mixed", "mixed1", perm=[0, 2, 1, 3]),
        node("Reshape", "mixed1 whole", "mixed2"),
        node("MatMul", "mixed2 wo", "o"),
        node("Add", "o x", "sum"),
        node("LayerNormalization", "sum s t", "m"),
        node("MatMul", "m wf", "f"),
        node("Add", "f bf", "f1"),
        node("Gelu", "f1", "f2"),
        node("MatMul", "f2 wg", "g"),
        node("Add", "g sum", "y"),
    ]
    weights = {f"w{name}": weight(32, 32) for name in "qkvo"} | {f"b{name}": weight(32) for name in "qkv"}
    weights |= {"s": np.ones(32), "t": weight(32), "wf": weight(32, 64), "bf": weight(64), "wg": weight(64, 32)}
    weights |= {"heads": np.array([0, 0, 4, 8]), "whole": np.array([0, 0, 32])}
    return graph_of(nodes, weights, ("n", "s", 32))


def sequences(count: int = 4, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6, 32)).astype(np.float32)}


def answers(graph: Graph, feeds: Tensors, optimize: bool = True) -> dict[str, Array]:
    return dict(next(iter(run_graph(graph, [feeds], optimize=optimize))))


def ranges_of(graph: Graph, tensors: Sequence[str], feeds: Tensors) -> dict[str, tuple[float, float]]:
    model = graph.copy()
    del model.graph.output[:]
    made = [name for name in tensors if name not in feeds]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made)
    values = {**feeds, **(answers(Graph(model), feeds, optimize=False) if made else {})}
    return {name: (float(values[name].min()), float(values[name].max())) for name in tensors}


def planned(
    graph: Graph, layers: Collection[str] | None = None, engine: EngineName = "onnxruntime"
) -> QuantizationPlan:
    plan = plan_int8(graph, layers, engine)
    assert isinstance(plan, QuantizationPlan), plan
    return plan


def quantized(
    graph: Graph,
    feeds: Tensors,
    scheme: Scheme = "u8s8",
    layers: Collection[str] | None = None,
    engine: EngineName = "onnxruntime",
) -> Graph:
    """Static INT8 with the ranges of these feeds; checked as ONNX."""
    plan = planned(graph, layers, engine)
    found = quantize_int8(graph, plan, ranges_of(graph, plan.tensors, feeds), scheme)
    assert isinstance(found, Graph), found
    onnx.checker.check_model(found.model, full_check=True)
    return found


def relative_error(found: Tensors, expected: Tensors) -> float:
    """Squared error over squared length."""
    return float(((found["y"] - expected["y"]) ** 2).sum() / (expected["y"] ** 2).sum())


def fused_operators(graph: Graph, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph, once it has fused what it can."""
    graph.save(folder / "before.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "after.onnx")
    onnxruntime.InferenceSession(folder / "before.onnx", options, providers=["CPUExecutionProvider"])
    return Counter(each.op_type for each in onnx.load(folder / "after.onnx").graph.node)
