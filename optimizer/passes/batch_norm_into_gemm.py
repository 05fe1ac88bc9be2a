"""Fold BatchNormalization into the Gemm or the MatMul of two matrices that feeds it.

    BatchNormalization(alpha A B + beta C)  ->  Gemm(A, alpha s B, s (beta C - mean) + shift),   s per column

A MatMul becomes a Gemm, as it needs a C. Declines training mode, parameters, B or C that are not constant, a MatMul
that is not of rank 2 (its last axis is not the channel axis), a C that varies by row, and a product that someone
else reads too.
"""

import numpy as np
import onnx

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import float_attribute, input_at, int_attribute, label
from optimizer.passes.channel_affine import ChannelAffine, affine_from_batch_norm, rounded
from optimizer.passes.graph_editor import FLOAT_TYPES, GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 7


def fold_batch_norms_into_gemms(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for node in editor.find("BatchNormalization"):
        product = editor.producer(node.input[0])
        if product is not None and product.op_type in ("Gemm", "MatMul"):
            reason = _fold(editor, product, node)
            if reason is not None:
                editor.decline(node, reason)
    return editor.rewritten()


def _fold(editor: GraphEditor, product: onnx.NodeProto, norm: onnx.NodeProto) -> str | None:
    shared = editor.why_shared(product.output[0], norm)
    if shared is not None:
        return shared
    reason = _why_not_linear(editor, product)
    if reason is not None:
        return reason
    affine = affine_from_batch_norm(editor, norm)
    if isinstance(affine, str):
        return affine
    bias = _bias(editor, product, affine.scale.size)
    if isinstance(bias, str):
        return bias
    return _replace(editor, product, norm, affine, bias)


def _why_not_linear(editor: GraphEditor, product: onnx.NodeProto) -> str | None:
    if editor.opset < _OLDEST_OPSET:
        return f"opset {editor.opset} broadcasts by attributes; opset {_OLDEST_OPSET} is needed"
    ranks = [len(shape) for shape in map(editor.shape, product.input[:2]) if shape is not None]
    if ranks != [2, 2]:
        return f"the last axis of {label(product)} is its channel axis only where both sides have rank 2"
    if editor.constant(product.input[1]) is None:
        return f"the weights of {label(product)} are not constant"
    if editor.element_type(product.input[1]) not in FLOAT_TYPES:
        return f"the weights of {label(product)} are not floating point"
    return None


def _bias(editor: GraphEditor, product: onnx.NodeProto, columns: int) -> Array | str:
    """What the product adds to every row, in FP64."""
    name = input_at(product, 2)
    if not name:
        return np.zeros(columns)
    constant = editor.constant(name)
    if constant is None:
        return f"the bias of {label(product)} is not constant"
    if constant.size not in (1, columns) or any(size != 1 for size in constant.shape[:-1]):
        return f"the bias of {label(product)} varies by row"
    return float_attribute(product, "beta", 1.0) * np.resize(constant.astype(np.float64), columns)


def _replace(
    editor: GraphEditor, product: onnx.NodeProto, norm: onnx.NodeProto, affine: ChannelAffine, bias: Array
) -> str | None:
    weight = editor.constant(product.input[1])
    assert weight is not None
    is_gemm = product.op_type == "Gemm"
    transposed = is_gemm and int_attribute(product, "transB", 0) != 0
    scale = affine.scale[:, None] if transposed else affine.scale
    alpha = float_attribute(product, "alpha", 1.0) if is_gemm else 1.0
    new_weight = rounded(alpha * scale * weight.astype(np.float64), weight)
    new_bias = rounded(affine.scale * bias + affine.shift, weight)
    if new_weight is None or new_bias is None:
        return f"the folded weights overflow {weight.dtype}"
    inputs = [
        product.input[0],
        editor.add_weight(f"{product.input[1]}_folded", new_weight),
        editor.add_weight(f"{product.output[0]}_bias", new_bias),
    ]
    fused = onnx.helper.make_node("Gemm", inputs, [norm.output[0]], name=product.name)
    for flag in ("transA", "transB"):
        if is_gemm and int_attribute(product, flag, 0):
            fused.attribute.append(onnx.helper.make_attribute(flag, 1))
    editor.replace([product, norm], fused)
    return None
