"""Where a layer's bias is, or could be: in the layer, or in the Add behind a MatMul."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import float_attribute, input_at, operator_name
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.channel_statistics import Channels
from optimizer.repair.layer_weights import LayerWeights, has_matrix, matrix_of, with_weights


@dataclass(frozen=True, slots=True)
class Bias:
    """The bias of one layer.

    Attributes:
        layer: the layer's node.
        site: the node whose output holds it: the layer, or the Add behind it.
        name: its initializer; empty where the layer has none yet.
        position: which input of `site` it is.
        values: one number for each output channel.
        channels: where the output of `site` keeps them.
    """

    layer: str
    site: str
    name: str
    position: int
    values: Array
    channels: Channels


def bias_of(editor: GraphEditor, weights: LayerWeights, node: onnx.NodeProto) -> Bias | None:
    """Find a layer's bias or its place; None where there is no place or the bias is not one FP32 number per channel."""
    shape = editor.shape(node.input[1])
    if shape is None or not has_matrix(node, shape):
        return None
    groups, outputs, *_ = matrix_of(node, np.empty(shape, np.bool_)).shape
    channels = Channels(groups * outputs, node.op_type != "Conv")
    if node.op_type == "MatMul":
        return _added_behind(editor, weights, node, channels)
    if not input_at(node, 2):
        return Bias(node.name, node.name, "", 2, np.zeros(channels.count), channels)
    if float_attribute(node, "beta", 1.0) != 1.0:
        return None
    return _known(weights, node, node, 2, channels)


def with_biases(graph: Graph, values: Sequence[tuple[Bias, Array]]) -> Graph:
    """Give layers other biases; one that is shared, or not there yet, becomes an initializer of its own."""
    weights = LayerWeights(graph)
    model = graph.copy()
    nodes = {node.name: node for node in model.graph.node}
    arrays: dict[str, Array] = {}
    for bias, array in values:
        name = bias.name if weights.is_private(bias.name) else f"{nodes[bias.site].output[0]}_corrected_bias"
        arrays[name] = array.astype(np.float32)
        _set_input(nodes[bias.site], bias.position, name)
    return with_weights(Graph(model), arrays)


def _added_behind(editor: GraphEditor, weights: LayerWeights, node: onnx.NodeProto, channels: Channels) -> Bias | None:
    readers = editor.consumers(node.output[0])
    if len(readers) != 1 or operator_name(readers[0]) != "Add" or editor.why_shared(node.output[0], readers[0]):
        return None
    return _known(weights, node, readers[0], 1 - list(readers[0].input).index(node.output[0]), channels)


def _known(
    weights: LayerWeights, node: onnx.NodeProto, site: onnx.NodeProto, position: int, channels: Channels
) -> Bias | None:
    name = site.input[position]
    if not weights.is_known(name):
        return None
    array = weights.array(name).astype(np.float64)
    if array.size not in (1, channels.count) or (array.ndim and array.shape[-1] != array.size):
        return None
    return Bias(
        node.name, site.name, name, position, np.broadcast_to(array.reshape(-1), channels.count).copy(), channels
    )


def _set_input(node: onnx.NodeProto, position: int, name: str) -> None:
    while len(node.input) <= position:
        node.input.append("")
    node.input[position] = name
