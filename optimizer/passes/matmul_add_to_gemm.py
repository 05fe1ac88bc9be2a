"""Fuse a MatMul of two matrices and the Add behind it into one Gemm.

    Add(MatMul(A, B), C)  ->  Gemm(A, B, C)

Declines anything but rank 2, integers, a C that would make the result larger, opsets before 7 (Add broadcasts by
attribute there), and a product that someone else reads too.
"""

import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import FLOAT_TYPES, GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 7


def fuse_matmul_adds(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for add in editor.find("Add"):
        for product in add.input:
            matmul = editor.producer(product)
            if matmul is not None and matmul.op_type == "MatMul":
                reason = _fuse(editor, matmul, add)
                if reason is None:
                    break
                editor.decline(matmul, reason)
    return editor.rewritten()


def _fuse(editor: GraphEditor, matmul: onnx.NodeProto, add: onnx.NodeProto) -> str | None:
    product = matmul.output[0]
    if editor.opset < _OLDEST_OPSET:
        return f"opset {editor.opset} broadcasts by attributes; opset {_OLDEST_OPSET} is needed"
    shared = editor.why_shared(product, add)
    if shared is not None:
        return shared
    left, right = (editor.shape(name) for name in matmul.input)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return "Gemm takes two matrices, and one of these is not of rank 2 or of unknown rank"
    if editor.element_type(matmul.input[0]) not in FLOAT_TYPES:
        return "Gemm is for floating point"
    position = list(add.input).index(product)
    addend = add.input[1 - position]
    if not _broadcasts_into(editor.shape(addend), (left[0], right[1])):
        return f"'{addend}' does not broadcast into the product, as far as its shape is known"
    fused = onnx.helper.make_node("Gemm", [*matmul.input, addend], [add.output[0]], name=add.name or matmul.name)
    editor.replace([matmul, add], fused)
    return None


def _broadcasts_into(shape: tuple[int, ...] | None, result: tuple[int, int]) -> bool:
    """Whether every size is 1 or known to be that of the result: an open size might be larger."""
    if shape is None or len(shape) > 2:
        return False
    return all(size == 1 or size == want != -1 for size, want in zip(shape[::-1], result[::-1], strict=False))
