"""Take out nodes that hand on what they are given.

    f(Identity(x))  ->  f(x)          f(Dropout(x))  ->  f(x)   where it does not train

The outputs of the graph keep their names: a value that is one is given to the node that makes it. Declines a Dropout
that trains or whose mask is read, a value that a subgraph reads, and a graph input or weight handed to an output.
"""

import onnx

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import input_at, int_attribute
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten


def eliminate_identities(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for node in editor.find("Identity", "Dropout"):
        reason = _why_needed(editor, node) or _bypass(editor, node)
        if reason is not None:
            editor.decline(node, reason)
    return editor.rewritten()


def _why_needed(editor: GraphEditor, node: onnx.NodeProto) -> str | None:
    if any(editor.is_output(name) or editor.consumers(name) for name in node.output[1:]):
        return "its mask is used"
    if node.op_type != "Dropout":
        return None
    if editor.opset < 7:
        return None if int_attribute(node, "is_test", 0) else "it runs in training mode"
    training = input_at(node, 2) if editor.opset >= 12 else ""
    if not training:
        return None
    constant = editor.constant(training)
    return None if constant is not None and not constant.any() else "it runs in training mode, or may"


def _bypass(editor: GraphEditor, node: onnx.NodeProto) -> str | None:
    before, after = node.input[0], node.output[0]
    if editor.is_captured(before) or editor.is_captured(after):
        return "a subgraph uses the value"
    if not editor.is_output(after):
        editor.replace([node])
        editor.rename(after, before)
        return None
    if editor.is_fed(before):
        return f"it hands '{before}', an input or a weight, to an output"
    if editor.is_output(before):
        return f"it hands the output '{before}' to another output"
    editor.replace([node])
    editor.rename(before, after)
    return None
