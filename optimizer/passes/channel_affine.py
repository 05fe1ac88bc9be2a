"""An affine map per channel, y = scale * x + shift, read from the nodes that mean one and folded into weights.

Everything is computed in FP64 and rounded once, to the type of the weights.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from enginehouse.dtype import Array
from optimizer.graph.nodes import float_attribute, input_at, int_attribute, label
from optimizer.passes.graph_editor import FLOAT_TYPES, GraphEditor


@dataclass(frozen=True, slots=True)
class ChannelAffine:
    """One scale and one shift per channel, in FP64."""

    scale: Array
    shift: Array


def affine_from_batch_norm(editor: GraphEditor, node: onnx.NodeProto) -> ChannelAffine | str:
    """Read a BatchNormalization in inference mode, or say why it is not a fixed affine map.

    scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale
    """
    if _trains(editor, node):
        return "it runs in training mode"
    if editor.opset < 9 and int_attribute(node, "spatial", 1) != 1:
        return "it normalizes every position on its own (spatial = 0)"
    constants = [editor.constant(name) for name in node.input[1:5]]
    known = [value.astype(np.float64) for value in constants if value is not None]
    if len(known) != 4:
        return "its parameters are not constant"
    gamma, beta, mean, variance = known
    scale = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
    if not np.isfinite(scale).all():
        return "its scale is not finite"
    return ChannelAffine(scale, beta - mean * scale)


def _trains(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """The mark of training moved: `is_test` until opset 6, the number of outputs until 13, then an attribute."""
    if editor.opset >= 14:
        return int_attribute(node, "training_mode", 0) != 0
    statistics = any(node.output[1:])
    return statistics or (editor.opset < 7 and int_attribute(node, "is_test", 0) == 0)


def affine_from_arithmetic(editor: GraphEditor, node: onnx.NodeProto, value: str, channels: int) -> ChannelAffine | str:
    """Read Mul, Add, Sub or Div of `value` (rank known, channels on axis 1) with a constant, or say why it is none."""
    position = list(node.input).index(value)
    other = editor.constant(node.input[1 - position])
    shape = editor.shape(value)
    if other is None:
        return "its other operand is not constant"
    if other.dtype.kind not in "fV" or shape is None:
        return "its operand's type or shape is not known"
    if node.op_type == "Div" and position == 1:
        return "it divides by the convolution"
    per_channel = _per_channel(other, len(shape), channels)
    if per_channel is None:
        return f"a constant of shape {list(other.shape)} is not one number per channel of {channels}"
    ones, zeros = np.ones(channels), np.zeros(channels)
    match node.op_type:
        case "Mul":
            return ChannelAffine(per_channel, zeros)
        case "Div":
            return ChannelAffine(1 / per_channel, zeros) if per_channel.all() else "it divides by zero"
        case "Add":
            return ChannelAffine(ones, per_channel)
    return ChannelAffine(ones, -per_channel) if position == 0 else ChannelAffine(-ones, per_channel)


def _per_channel(constant: Array, rank: int, channels: int) -> Array | None:
    """One number per channel, where broadcasting against (N, C, ...) does nothing else."""
    if constant.ndim > rank:
        return None
    full = (1,) * (rank - constant.ndim) + constant.shape
    if full[1] not in (1, channels) or any(size != 1 for axis, size in enumerate(full) if axis != 1):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(full[1]), (channels,)).copy()


def out_channels(editor: GraphEditor, conv: onnx.NodeProto) -> int | str:
    """How many channels a Conv or ConvTranspose with constant weights makes, or why nothing can be folded into it."""
    weight = editor.shape(input_at(conv, 1))
    bias = input_at(conv, 2)
    if weight is None or editor.constant(conv.input[1]) is None or (bias and editor.constant(bias) is None):
        return f"the weights of {label(conv)} are not constant"
    if editor.element_type(conv.input[1]) not in FLOAT_TYPES:
        return f"the weights of {label(conv)} are not floating point"
    return weight[1] * int_attribute(conv, "group", 1) if conv.op_type == "ConvTranspose" else weight[0]


def rounded(array: Array, like: Array) -> Array | None:
    """Round FP64 to the type of `like`; None where that would overflow."""
    with np.errstate(over="ignore"):
        result = array.astype(like.dtype)
    return result if np.isfinite(result.astype(np.float64)).all() else None


def fold_into_conv(
    editor: GraphEditor, conv: onnx.NodeProto, last: onnx.NodeProto, affine: ChannelAffine
) -> str | None:
    """Put the affine map that `last` is into the weights of the Conv or ConvTranspose that feeds it.

    Returns a reason where the new weights would not fit their type, and then changes nothing.

    scale * (W x + b) + shift = (scale W) x + (scale b + shift)
    """
    weight = editor.constant(conv.input[1])
    assert weight is not None
    bias = editor.constant(conv.input[2]) if input_at(conv, 2) else None
    old_bias = np.zeros(1) if bias is None else bias.astype(np.float64)
    new_weight = rounded(_scaled_weight(conv, weight.astype(np.float64), affine.scale), weight)
    new_bias = rounded(affine.scale * old_bias + affine.shift, weight)
    if new_weight is None or new_bias is None:
        return f"the folded weights overflow {weight.dtype}"
    names = [
        editor.add_weight(f"{conv.input[1]}_folded", new_weight),
        editor.add_weight(f"{conv.output[0]}_bias", new_bias),
    ]
    fused = onnx.NodeProto()
    fused.CopyFrom(conv)
    del fused.input[1:], fused.output[:]
    fused.input.extend(names)
    fused.output.append(last.output[0])
    editor.replace([conv, last], fused)
    return None


def _scaled_weight(conv: onnx.NodeProto, weight: Array, scale: Array) -> Array:
    """Conv keeps its output channels on axis 0; ConvTranspose on axis 1, within each group of axis 0."""
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = int_attribute(conv, "group", 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    factors = scale.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)
