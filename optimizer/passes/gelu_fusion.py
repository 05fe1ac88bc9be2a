"""Fuse a Gelu that was taken apart, in its exact form, into one Gelu.

    x * 0.5 * (1 + erf(x / sqrt(2)))  ->  Gelu(x)

The three factors may be multiplied in any order. Declines opsets before 20 (which do not have the operator), other
constants, and intermediate values that someone else reads too.
"""

import math

import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import FLOAT_TYPES, GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 20
# Exporters write the constants with three to sixteen digits; FP16 keeps three.
_CONSTANT_TOLERANCE = 1e-3


def fuse_gelus(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for erf in editor.find("Erf"):
        reason = _fuse(editor, erf)
        if reason is not None:
            editor.decline(erf, reason)
    return editor.rewritten()


def _fuse(editor: GraphEditor, erf: onnx.NodeProto) -> str | None:
    scaled = editor.made_by(erf.input[0], "Div", "Mul")
    source = _scaled_source(editor, scaled, 1 / math.sqrt(2)) if scaled is not None else None
    if scaled is None or source is None:
        return "its input is not x / sqrt(2)"
    plus_one = editor.reader(erf.output[0], "Add")
    if plus_one is None or _other_scalar(editor, plus_one, erf.output[0]) != 1:
        return "nothing adds 1 to it"
    products = _products(editor, plus_one.output[0], source)
    if products is None:
        return "the rest is not x * 0.5 * (1 + erf)"
    if editor.opset < _OLDEST_OPSET:
        return f"opset {editor.opset} has no Gelu; opset {_OLDEST_OPSET} is needed"
    if editor.element_type(source) not in FLOAT_TYPES:
        return "Gelu is for floating point of a known type"
    pattern = [scaled, erf, plus_one, *products]
    reason = editor.why_not_private(pattern)
    if reason is not None:
        return reason
    editor.replace(pattern, onnx.helper.make_node("Gelu", [source], [products[-1].output[0]], name=erf.name))
    return None


def _products(editor: GraphEditor, plus_one: str, source: str) -> list[onnx.NodeProto] | None:
    """The two multiplications around `1 + erf`, the last one last."""
    first = editor.reader(plus_one, "Mul")
    if first is None:
        return None
    other = next((name for name in first.input if name != plus_one), "")
    half = editor.made_by(other, "Mul", "Div")
    if half is not None and _scaled_source(editor, half, 0.5) == source:
        return [half, first]
    last = editor.reader(first.output[0], "Mul")
    if last is None:
        return None
    if other == source and _is_half(_other_scalar(editor, last, first.output[0])):
        return [first, last]
    halves = _is_half(_other_scalar(editor, first, plus_one))
    return [first, last] if halves and source in last.input else None


def _scaled_source(editor: GraphEditor, node: onnx.NodeProto, factor: float) -> str | None:
    """What the node multiplies by `factor` (or divides by its inverse), if it does."""
    for position, name in enumerate(node.input):
        number = _other_scalar(editor, node, name)
        if number is None or number == 0 or (node.op_type == "Div" and position == 1):
            continue
        found = 1 / number if node.op_type == "Div" else number
        if math.isclose(found, factor, rel_tol=_CONSTANT_TOLERANCE):
            return name
    return None


def _other_scalar(editor: GraphEditor, node: onnx.NodeProto, value: str) -> float | None:
    """The number that meets `value` in a node with two operands; None where it is no number or raises the rank."""
    shape = editor.shape(value)
    other = next((name for name in node.input if name != value), "")
    return editor.scalar(other, 0 if shape is None else len(shape))


def _is_half(number: float | None) -> bool:
    return number == 0.5
