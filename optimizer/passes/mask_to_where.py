"""Choose the penalty of an attention mask in place of computing it.

    Mul(Unsqueeze(Sub(1, Cast(keep))), penalty)  ->  Where(Unsqueeze(keep), 0, penalty)

`keep` is boolean and `penalty` one finite number, so both are 0 where it is true and the penalty elsewhere. That is one
node less; and OpenVINO takes a boolean that is cast, subtracted and multiplied for a dequantization once a graph holds
integers, and moves it to where a penalty of -3.4e38 overflows: a trained encoder lost 20 points by it.
"""

import numpy as np
import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 9


def choose_mask_penalties(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for mul in editor.find("Mul") if editor.opset >= _OLDEST_OPSET else ():
        for position in (0, 1):
            penalty = editor.scalar(mul.input[1 - position], 0)
            chain = _chain(editor, mul.input[position])
            if penalty is not None and np.isfinite(penalty) and chain is not None:
                _rewrite(editor, mul, chain, position)
                break
    return editor.rewritten()


def _chain(editor: GraphEditor, value: str) -> tuple[list[onnx.NodeProto], str] | None:
    """The nodes that only add axes, outermost first, and the boolean below them; None where this is no mask."""
    unsqueezes: list[onnx.NodeProto] = []
    while (node := editor.made_by(value, "Unsqueeze")) is not None:
        unsqueezes.append(node)
        value = node.input[0]
    sub = editor.made_by(value, "Sub")
    if sub is None or editor.scalar(sub.input[0], 0) != 1.0:
        return None
    cast = editor.made_by(sub.input[1], "Cast")
    if cast is None or editor.element_type(cast.input[0]) != onnx.TensorProto.BOOL:
        return None
    return unsqueezes, cast.input[0]


def _rewrite(editor: GraphEditor, mul: onnx.NodeProto, chain: tuple[list[onnx.NodeProto], str], position: int) -> None:
    unsqueezes, keep = chain
    for node, reader in zip(unsqueezes, [mul, *unsqueezes], strict=False):
        shared = editor.why_shared(node.output[0], reader)
        if shared is not None:
            editor.decline(mul, shared)
            return
    element = onnx.helper.tensor_dtype_to_np_dtype(editor.element_type(mul.output[0]) or onnx.TensorProto.FLOAT)
    zero = editor.add_weight(f"{mul.output[0]}_kept", np.zeros((), element))
    condition = unsqueezes[0].output[0] if unsqueezes else keep
    where = onnx.helper.make_node("Where", [condition, zero, mul.input[1 - position]], list(mul.output), name=mul.name)
    editor.replace([mul], where)
    if unsqueezes:
        innermost = unsqueezes[-1]
        moved = onnx.NodeProto()
        moved.CopyFrom(innermost)
        moved.input[0] = keep
        editor.replace([innermost], moved)
