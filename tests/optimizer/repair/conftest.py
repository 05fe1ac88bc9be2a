"""Trained digits models, and a quantizer whose number of bits a test can choose."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of, named_graph
from optimizer.graph.run import run_graph
from optimizer.importers.import_model import import_model
from optimizer.repair.repair import Quantize
from optimizer.rewrite import rewrite

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def planted(text: str, weights: dict[str, Array], opset: int = 20) -> Graph:
    """A graph from ONNX's text form; each node is named by its output."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> planted {text}')
    for node in model.graph.node:
        node.name = node.name or f"{node.output[0]}_node"
    model.graph.initializer.extend(
        numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)
        for name, array in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return Graph(model)


def outputs_of(graph: Graph, feeds: Sequence[Tensors]) -> list[Tensors]:
    return list(run_graph(graph, feeds, optimize=False))


def layer_names(graph: Graph) -> list[str]:
    return [layer.name for layer in layers_of(graph)]


def quantized(graph: Graph, feeds: Sequence[Tensors], weight_levels: int, anchor: Graph | None) -> Graph:
    """Q/DQ around each Conv, Gemm and MatMul: U8 activations of observed range, S8 weights per output channel.

    With `anchor`, ranges are those of that graph. `weight_levels` is the largest integer: 127 is eight bits, 7 is four.
    """
    model = graph.copy()
    weights = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    ranges = _ranges(anchor or graph, feeds)
    nodes: list[onnx.NodeProto] = []
    added: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            nodes += _activation_pair(node, ranges, added)
            nodes.append(_weight_dequantizer(node, numpy_helper.to_array(weights[node.input[1]]), weight_levels, added))
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in added.items())
    return Graph(model)


def _ranges(graph: Graph, feeds: Sequence[Tensors]) -> dict[str, tuple[float, float]]:
    model = graph.copy()
    values = dict.fromkeys(layer.activation for layer in layers_of(graph))
    fed = {spec.name for spec in graph.inputs}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in fed)
    found: dict[str, tuple[float, float]] = {}
    computed = outputs_of(Graph(model), feeds) if model.graph.output else [{} for _ in feeds]
    for feed, outputs in zip(feeds, computed, strict=True):
        for name in values:
            array = feed[name] if name in fed else outputs[name]
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found


def _activation_pair(
    node: onnx.NodeProto, ranges: dict[str, tuple[float, float]], added: dict[str, Array]
) -> list[onnx.NodeProto]:
    value, prefix = node.input[0], f"{node.name}_activation"
    low, high = ranges[value]
    scale = max(high - low, 1e-6) / 255
    added[f"{prefix}_scale"] = np.array(scale, np.float32)
    added[f"{prefix}_zero"] = np.array(np.clip(round(-low / scale), 0, 255), np.uint8)
    parameters = [f"{prefix}_scale", f"{prefix}_zero"]
    node.input[0] = f"{prefix}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [value, *parameters], [f"{prefix}_quantized"]),
        helper.make_node("DequantizeLinear", [f"{prefix}_quantized", *parameters], [node.input[0]]),
    ]


def _weight_dequantizer(node: onnx.NodeProto, weight: Array, levels: int, added: dict[str, Array]) -> onnx.NodeProto:
    is_output_first = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
    axis = 0 if is_output_first else 1
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scales = np.maximum(np.abs(weight).max(axis=others), 1e-12) / levels
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    prefix = f"{node.name}_weight"
    added[f"{prefix}_quantized"] = np.rint(weight / scales.reshape(shape)).astype(np.int8)
    added[f"{prefix}_scale"] = scales.astype(np.float32)
    node.input[1] = f"{prefix}_dequantized"
    return helper.make_node("DequantizeLinear", [f"{prefix}_quantized", f"{prefix}_scale"], [node.input[1]], axis=axis)


def digits_graph(name: str, workdir: Path) -> Graph:
    graph = import_model(DIGITS / name, workdir)
    pixels = _pixels("calibration")
    rewritten, _ = rewrite(graph, [{"pixels": pixels[:2]}, {"pixels": pixels[:3]}])
    return named_graph(rewritten)


def _pixels(split: str) -> Array:
    with np.load(DIGITS / "digits.npz") as arrays:
        found: Array = arrays[f"{split}/pixels"]
    return found


def _batches(rows: Array) -> list[Tensors]:
    return [{"pixels": rows[start : start + 8]} for start in range(0, len(rows), 8)]


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return digits_graph("digits.onnx", tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return digits_graph("digits_mlp.onnx", tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return digits_graph("digits_transformer.onnx", tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="session")
def digits() -> list[Tensors]:
    """64 calibration rows in batches of 8."""
    return _batches(_pixels("calibration")[:64])


@pytest.fixture(scope="session")
def unseen() -> list[Tensors]:
    """Validation rows, which no repair learns from."""
    return _batches(_pixels("validation"))


@pytest.fixture
def plant() -> Callable[..., Graph]:
    return planted


@pytest.fixture
def answers() -> Callable[[Graph, Sequence[Tensors]], list[Tensors]]:
    return outputs_of


@pytest.fixture
def names_of() -> Callable[[Graph], list[str]]:
    return layer_names


@pytest.fixture
def quantizer() -> Callable[..., Callable[[Graph], Graph]]:
    """Make a `Quantize` for feeds, with how many levels weights have and whose ranges are taken."""

    def make(
        feeds: Sequence[Tensors], weight_levels: int = 127, anchor: Graph | None = None
    ) -> Callable[[Graph], Graph]:
        return partial(quantized, feeds=feeds, weight_levels=weight_levels, anchor=anchor)

    return make


@pytest.fixture
def refuses() -> Quantize:
    return lambda graph: Declined(f"no INT8 for {graph.node_count} nodes")
