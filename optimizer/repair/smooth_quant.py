"""SmoothQuant (Xiao et al., 2022): take outlier channels out of the activations that matrix products read.

    y = W x = (W S) (S^-1 x)

S^-1 goes into the scale and bias of the LayerNormalization (or into the constant of the Mul) that makes `x` where only
such layers read it, and costs nothing; elsewhere a Mul is inserted, which costs time and has to gain more. How far each
activation is smoothed is chosen by predicted error, see `channel_scales`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.graph.nodes import input_at
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.channel_scales import Reader, best_scales
from optimizer.repair.channel_statistics import Channels, channel_statistics
from optimizer.repair.layer_weights import LayerWeights, has_matrix, with_weights
from optimizer.repair.output_error import LEAST_GAIN, quantized_and_judged
from optimizer.repair.repair import Quantize, Repaired

# The share of the predicted error that must go, where the factors are folded and where a Mul is inserted.
_LEAST_GAIN_FOLDED = 0.05
_LEAST_GAIN_INSERTED = 0.5
# The share of the outputs' error that must go where a Mul was inserted anywhere, because it costs time.
_LEAST_GAIN_WITH_MUL = 0.1


@dataclass(frozen=True, slots=True)
class _Smoothing:
    """One activation, the layers that read it, and the weights that take S^-1; none where a Mul must."""

    value: str
    readers: tuple[onnx.NodeProto, ...]
    takers: tuple[str, ...]


def smooth(
    graph: Graph,
    layers: Collection[str],
    quantize: Quantize,
    feeds: Sequence[Tensors],
    reference: Graph | None = None,
) -> Repaired | Declined:
    """Smooth every activation of MatMul and Gemm layers that gains from it."""
    weights = LayerWeights(graph)
    smoothings = _smoothings(graph, weights, layers)
    if not smoothings:
        return Declined("no MatMul or Gemm with weights of its own to smooth the input of")
    sites = {each.value: (each.value, Channels(weights.matrix(each.readers[0]).shape[2], True)) for each in smoothings}
    statistics = channel_statistics(graph, sites.values(), feeds)
    folded, inserted = 0, {}
    for each in smoothings:
        scales = best_scales([Reader(weights.matrix(node), statistics[sites[each.value]]) for node in each.readers])
        if scales.error_left > 1 - (_LEAST_GAIN_FOLDED if each.takers else _LEAST_GAIN_INSERTED):
            continue
        for node in each.readers:
            weights.set_matrix(node, weights.matrix(node) * scales.factors.reshape(1, 1, -1, 1))
        for name in each.takers:
            weights.scale(name, 1 / scales.factors)
        folded += bool(each.takers)
        if not each.takers:
            inserted[each.value] = (each.readers, (1 / scales.factors).astype(np.float32))
    if not folded and not inserted:
        return Declined("no activation has channels that stand out")
    if not weights.is_finite():
        return Declined("smoothed weights overflow FP32")
    smoothed = weights.graph()
    for value, (nodes, factors) in inserted.items():
        smoothed = _with_mul(smoothed, value, [node.name for node in nodes], factors)
    detail = f"{folded} activations smoothed in the node before, {len(inserted)} by a Mul"
    least = _LEAST_GAIN_WITH_MUL if inserted else LEAST_GAIN
    return quantized_and_judged(reference or graph, graph, smoothed, quantize, feeds, detail, least)


def _smoothings(graph: Graph, weights: LayerWeights, layers: Collection[str]) -> list[_Smoothing]:
    editor = GraphEditor(graph)
    values = dict.fromkeys(layer.activation for layer in layers_of(graph) if layer.name in layers)
    found = []
    for value in values:
        readers = [node for node in editor.consumers(value) if _can_scale(editor, weights, node, value)]
        wanted = tuple(node for node in readers if node.name in layers)
        if not wanted:
            continue
        takers = () if len(readers) < len(editor.consumers(value)) else _takers(editor, weights, value)
        found.append(_Smoothing(value, tuple(readers) if takers else wanted, takers))
    return found


def _can_scale(editor: GraphEditor, weights: LayerWeights, node: onnx.NodeProto, value: str) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[0] != value or value in node.input[1:]:
        return False
    shape = editor.shape(node.input[1])
    return shape is not None and has_matrix(node, shape) and weights.is_private(node.input[1])


def _takers(editor: GraphEditor, weights: LayerWeights, value: str) -> tuple[str, ...]:
    """The constants that hold one factor per channel of the value: scaling them scales it."""
    if editor.is_output(value) or editor.is_captured(value):
        return ()
    node = editor.made_by(value, "LayerNormalization", "Mul")
    shape = editor.shape(value)
    if node is None or shape is None or value != node.output[0]:
        return ()
    if node.op_type == "Mul":
        names = [name for name in node.input if weights.is_private(name)]
    else:
        names = [name for name in (node.input[1], input_at(node, 2)) if name]
    is_vector = [weights.is_private(name) and weights.array(name).shape == shape[-1:] for name in names]
    return tuple(names) if names and all(is_vector) else ()


def _with_mul(graph: Graph, value: str, readers: Collection[str], factors: Array) -> Graph:
    """Let these readers read the value times the factors."""
    smoothed = f"{value}_smoothed"
    model = with_weights(graph, {f"{smoothed}_factors": factors}).model
    nodes = list(model.graph.node)
    first = min(position for position, node in enumerate(nodes) if node.name in readers)
    for node in nodes:
        if node.name in readers:
            node.input[0] = smoothed
    mul = helper.make_node("Mul", [value, f"{smoothed}_factors"], [smoothed], name=f"{smoothed}_mul")
    model.graph.node.insert(first, mul)
    return Graph(model)
