"""Fold BatchNormalization into the Conv or ConvTranspose that feeds it.

    BatchNormalization(Conv(x, W, b))  ->  Conv(x, s W, s (b - mean) + beta),   s = gamma / sqrt(variance + epsilon)

Declines training mode, parameters or weights that are not constant, and a convolution that someone else reads too.
"""

import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.channel_affine import affine_from_batch_norm, fold_into_conv, out_channels
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten


def fold_batch_norms_into_convs(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for node in editor.find("BatchNormalization"):
        conv = editor.producer(node.input[0])
        if conv is not None and conv.op_type in ("Conv", "ConvTranspose"):
            reason = _fold(editor, conv, node)
            if reason is not None:
                editor.decline(node, reason)
    return editor.rewritten()


def _fold(editor: GraphEditor, conv: onnx.NodeProto, norm: onnx.NodeProto) -> str | None:
    shared = editor.why_shared(conv.output[0], norm)
    if shared is not None:
        return shared
    channels = out_channels(editor, conv)
    if isinstance(channels, str):
        return channels
    affine = affine_from_batch_norm(editor, norm)
    if isinstance(affine, str):
        return affine
    if affine.scale.shape != (channels,):
        return f"it has {affine.scale.size} channels and the convolution {channels}"
    return fold_into_conv(editor, conv, norm, affine)
