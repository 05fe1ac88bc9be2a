"""Find where a layer's output channels can be scaled down and every reader's weights up with nothing else changing.

y = W2 f(W1 x + b1) = (W2 S) f(S^-1 (W1 x + b1))    for f(s v) = s f(v), s > 0, channel by channel
"""

from dataclasses import dataclass

import numpy as np
import onnx

from optimizer.graph.declined import Declined
from optimizer.graph.nodes import float_attribute, input_at, label, operator_name, text_attribute
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.biases import Bias, bias_of
from optimizer.repair.layer_weights import LayerWeights, has_matrix

# f(s v) = s f(v) for each channel by itself, whatever axis the channels are on.
_HOMOGENEOUS = frozenset(("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"))
# The same, for operators that know channels as axis 1.
_POOLING = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
_FLATTENING = frozenset(("Flatten", "Reshape"))


@dataclass(frozen=True, slots=True)
class Sink:
    """A layer at the end of a path, and how many of its inputs in a row make one channel."""

    node: onnx.NodeProto
    features: int


@dataclass(frozen=True, slots=True)
class Junction:
    """A layer, its bias, and every layer that its output reaches."""

    producer: onnx.NodeProto
    bias: Bias
    sinks: tuple[Sink, ...]


def junction_after(editor: GraphEditor, weights: LayerWeights, producer: onnx.NodeProto) -> Junction | Declined:
    """Follow a layer's output to the layers that read it, or say what else does."""
    bias = bias_of(editor, weights, producer)
    if bias is None:
        return Declined(f"{label(producer)} is no Conv, Gemm or MatMul with one bias per channel")
    if not weights.is_private(producer.input[1]) or (bias.name and not weights.is_private(bias.name)):
        return Declined(f"the weights of {label(producer)} are shared or not constant")
    site = next(node for node in editor.nodes if node.name == bias.site)
    found = _sinks(editor, weights, site.output[0], bias)
    return found if isinstance(found, Declined) else Junction(producer, bias, tuple(found))


def _sinks(editor: GraphEditor, weights: LayerWeights, value: str, bias: Bias) -> list[Sink] | Declined:
    if editor.is_output(value) or editor.is_captured(value):
        return Declined(f"'{value}' is needed outside the chain")
    sinks: list[Sink] = []
    for node in editor.consumers(value):
        ended = _sink(editor, weights, node, value, bias)
        if ended is not None:
            sinks.append(ended)
            continue
        if not _passes(editor, node, value, bias):
            return Declined(f"{label(node)} cannot be scaled channel by channel")
        further = _sinks(editor, weights, node.output[0], bias)
        if isinstance(further, Declined):
            return further
        sinks += further
    return sinks if sinks else Declined(f"nothing reads '{value}'")


def _sink(editor: GraphEditor, weights: LayerWeights, node: onnx.NodeProto, value: str, bias: Bias) -> Sink | None:
    if len(node.input) < 2 or node.input[0] != value or value in node.input[1:]:
        return None
    shape = editor.shape(node.input[1])
    if not weights.is_private(node.input[1]) or shape is None or not has_matrix(node, shape):
        return None
    groups, _, inputs, _ = weights.matrix(node).shape
    features, rest = divmod(groups * inputs, bias.channels.count)
    is_conv = node.op_type == "Conv"
    if bias.channels.is_last or is_conv:
        fits = features == 1 and is_conv != bias.channels.is_last
    else:
        fits = _is_flattened(editor, value, bias, features)
    return Sink(node, features) if fits and not rest else None


def _passes(editor: GraphEditor, node: onnx.NodeProto, value: str, bias: Bias) -> bool:
    operator = operator_name(node)
    if node.input[0] != value or value in node.input[1:] or any(node.output[1:]):
        return False
    if operator in _HOMOGENEOUS:
        return True
    if bias.channels.is_last:
        return False
    if operator == "Pad":
        return _pads_with_nothing_new(editor, node)
    return operator in _POOLING or (operator in _FLATTENING and _features(editor, node, bias) is not None)


def _is_flattened(editor: GraphEditor, value: str, bias: Bias, features: int) -> bool:
    """Whether the value comes, through homogeneous nodes, from a flattening that leaves this many per channel."""
    node = editor.producer(value)
    while node is not None and operator_name(node) in _HOMOGENEOUS:
        node = editor.producer(node.input[0])
    return node is not None and operator_name(node) in _FLATTENING and _features(editor, node, bias) == features


def _features(editor: GraphEditor, node: onnx.NodeProto, bias: Bias) -> int | None:
    """How many numbers of each channel stand side by side after (N, C, ...) became (N, C * ...); None if it did not."""
    before, after = editor.shape(node.input[0]), editor.shape(node.output[0])
    if before is None or after is None or len(before) < 3 or len(after) != 2 or before[1] != bias.channels.count:
        return None
    features = 1
    for size in before[2:]:
        features *= size if size > 0 else 0
    return features if features and after[1] == features * before[1] else None


def _pads_with_nothing_new(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Zeros, or copies of what is there: both scale with the channel."""
    if text_attribute(node, "mode", "constant") != "constant":
        return True
    if not input_at(node, 2):
        return float_attribute(node, "value", 0.0) == 0.0
    filler = editor.constant(node.input[2])
    return filler is not None and not np.any(filler)
