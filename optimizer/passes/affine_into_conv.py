"""Fold Mul, Add, Sub and Div by a constant per channel into the Conv or ConvTranspose that feeds them.

    Conv(x, W, b) * s + t  ->  Conv(x, s W, s b + t)

Chains fold one node after another. Declines a constant that varies over more than the channels, an operand that is
not constant, division by the convolution, weights that are not constant, and a convolution that someone else reads.
"""

import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.channel_affine import affine_from_arithmetic, fold_into_conv, out_channels
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET_WITH_BROADCASTING = 7


def fold_affines_into_convs(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for node in editor.find("Mul", "Add", "Sub", "Div"):
        conv = _conv_before(editor, node)
        if conv is not None:
            reason = _fold(editor, conv, node)
            if reason is not None:
                editor.decline(node, reason)
    return editor.rewritten()


def _conv_before(editor: GraphEditor, node: onnx.NodeProto) -> onnx.NodeProto | None:
    producers = [editor.producer(name) for name in node.input]
    return next((one for one in producers if one is not None and one.op_type in ("Conv", "ConvTranspose")), None)


def _fold(editor: GraphEditor, conv: onnx.NodeProto, node: onnx.NodeProto) -> str | None:
    if editor.opset < _OLDEST_OPSET_WITH_BROADCASTING:
        return f"opset {editor.opset} broadcasts by attributes; opset {_OLDEST_OPSET_WITH_BROADCASTING} is needed"
    shared = editor.why_shared(conv.output[0], node)
    if shared is not None:
        return shared
    channels = out_channels(editor, conv)
    if isinstance(channels, str):
        return channels
    affine = affine_from_arithmetic(editor, node, conv.output[0], channels)
    if isinstance(affine, str):
        return affine
    return fold_into_conv(editor, conv, node, affine)
