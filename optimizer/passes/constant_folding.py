"""Compute what depends on constants only, once, here.

    f(W, f(V))  ->  the result, as a weight

ONNX Runtime computes each node, so the result is what it would have been at run time. Values keep their names.
Declines results larger than what they are made of (beyond a small size), a second copy of a large weight that others
read too, nodes that draw random numbers or hold subgraphs, and quantized weights, whose dequantization is the point.
"""

import onnx

from enginehouse.dtype import Array
from enginehouse.errors import Error
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import constant_value, label, operator_name
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten
from optimizer.passes.single_node import output_bytes, run_node

# Below this many bytes a result may be larger than what it is made of.
_SMALL_BYTES = 1 << 20
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
_NEVER = (*_RANDOM, "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Dropout", "BatchNormalization")


def fold_constants(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    folded: list[onnx.NodeProto] = []
    for node in editor.nodes:
        if operator_name(node) == "Constant":
            reason = _lift(editor, node)
        else:
            feeds = _constant_inputs(editor, node)
            if feeds is None:
                continue
            reason = _why_not(editor, node, feeds) or _fold(editor, node, feeds)
        if reason is None:
            folded.append(node)
        else:
            editor.decline(node, reason)
    if folded:
        editor.replace(folded)
    return editor.rewritten()


def _lift(editor: GraphEditor, node: onnx.NodeProto) -> str | None:
    """Make a Constant node a weight of the same name."""
    if editor.is_output(node.output[0]):
        return "its result is an output of the graph"
    value = constant_value(node)
    if value is None:
        return "it is sparse"
    editor.set_weight(node.output[0], value)
    return None


def _constant_inputs(editor: GraphEditor, node: onnx.NodeProto) -> dict[str, Array] | None:
    """Every input by name, if all of them are constant and there is one."""
    if node.domain not in ("", "ai.onnx") or any(attribute.HasField("g") for attribute in node.attribute):
        return None
    if not any(node.input):
        return None
    feeds: dict[str, Array] = {}
    for name in filter(None, node.input):
        constant = editor.constant(name)
        if constant is None:
            return None
        feeds[name] = constant
    return feeds


def _why_not(editor: GraphEditor, node: onnx.NodeProto, feeds: dict[str, Array]) -> str | None:
    if node.op_type in _NEVER:
        return "its result is not a fixed value, or is kept quantized on purpose"
    if any(editor.is_output(name) for name in node.output):
        return "its result is an output of the graph"
    if any(array.dtype == object for array in feeds.values()):
        return "it computes with text"
    largest = max(feeds, key=lambda name: feeds[name].nbytes)
    if feeds[largest].nbytes > _SMALL_BYTES and editor.why_shared(largest, node) is not None:
        return f"a copy would be kept beside the large '{largest}', which others need"
    return None


def _fold(editor: GraphEditor, node: onnx.NodeProto, feeds: dict[str, Array]) -> str | None:
    limit = max(_SMALL_BYTES, sum(array.nbytes for array in feeds.values()))
    try:
        size = output_bytes(node, feeds, editor.opset)
        if size is None or size > limit:
            return f"its result has {'an unknown number of' if size is None else size} bytes; {limit} would be kept"
        results = run_node(node, feeds, editor.opset)
    except Error as problem:
        return f"{label(node)} cannot be computed: {problem}"
    for name, array in results.items():
        editor.set_weight(name, array)
    return None
