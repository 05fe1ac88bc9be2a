"""Fuse a layer normalization that was taken apart into one LayerNormalization.

    d = x - mean(x),  y = d / sqrt(mean(d * d) + epsilon) * gamma + beta  ->  LayerNormalization(x, gamma, beta)

Means go over trailing axes. The square may be Pow or Mul, the division Div or Reciprocal and Mul, beta may be missing.
Declines opsets before 17 (which do not have the operator), FP64 (it computes in FP32), other axes, a gamma or beta that
is not of the normalized shape, and intermediate values that someone else reads too.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import input_at, int_attribute, ints_attribute
from optimizer.passes.graph_editor import FLOAT_TYPES, GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 17
_AXES_ARE_INPUTS = 18


@dataclass(frozen=True, slots=True)
class _Core:
    """What was matched up to the division: its nodes in order, and the numbers that matter."""

    nodes: list[onnx.NodeProto]
    source: str
    means: tuple[onnx.NodeProto, onnx.NodeProto]
    epsilon: float


def fuse_layer_norms(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for root in editor.find("Sqrt"):
        core = _match_core(editor, root)
        if core is not None:
            reason = _fuse(editor, core)
            if reason is not None:
                editor.decline(root, reason)
    return editor.rewritten()


def _match_core(editor: GraphEditor, root: onnx.NodeProto) -> _Core | None:
    add = editor.made_by(root.input[0], "Add")
    if add is None:
        return None
    for position in (0, 1):
        variance = editor.made_by(add.input[position], "ReduceMean")
        epsilon = editor.scalar(add.input[1 - position], rank=1)
        if variance is not None and epsilon is not None:
            return _match_around(editor, root, [variance, add], epsilon)
    return None


def _match_around(
    editor: GraphEditor, root: onnx.NodeProto, variance_and_add: list[onnx.NodeProto], epsilon: float
) -> _Core | None:
    variance, add = variance_and_add
    square = editor.made_by(variance.input[0], "Pow", "Mul")
    if square is None or not _is_square(editor, square):
        return None
    below = editor.made_by(square.input[0], "Sub")
    mean = editor.made_by(below.input[1], "ReduceMean") if below is not None else None
    if below is None or mean is None or mean.input[0] != below.input[0]:
        return None
    division = _match_division(editor, root, below)
    if division is None:
        return None
    nodes = [mean, below, square, variance, add, root, *division]
    return _Core(nodes, below.input[0], (mean, variance), epsilon)


def _is_square(editor: GraphEditor, square: onnx.NodeProto) -> bool:
    if square.op_type == "Mul":
        return bool(square.input[0] == square.input[1])
    return editor.scalar(square.input[1], rank=1) == 2


def _match_division(editor: GraphEditor, root: onnx.NodeProto, below: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes from the root to the quotient; an exporter may have written the difference down twice."""
    inverse = editor.reader(root.output[0], "Reciprocal")
    quotient = editor.reader(inverse.output[0], "Mul") if inverse is not None else editor.reader(root.output[0], "Div")
    if quotient is None:
        return None
    if inverse is None and quotient.input[1] != root.output[0]:
        return None
    divisor = root.output[0] if inverse is None else inverse.output[0]
    dividend = next((name for name in quotient.input if name != divisor), "")
    twin = editor.made_by(dividend, "Sub")
    if twin is None or list(twin.input) != list(below.input):
        return None
    twins = [] if twin is below else [twin]
    return [*twins, *([] if inverse is None else [inverse]), quotient]


def _fuse(editor: GraphEditor, core: _Core) -> str | None:
    if editor.opset < _OLDEST_OPSET:
        return f"opset {editor.opset} has no LayerNormalization; opset {_OLDEST_OPSET} is needed"
    kind = editor.element_type(core.source)
    if kind not in FLOAT_TYPES or kind == onnx.TensorProto.DOUBLE:
        return "LayerNormalization computes in FP32, and the input is of another kind"
    axis = _first_axis(editor, core)
    if isinstance(axis, str):
        return axis
    shape = editor.shape(core.source)
    assert shape is not None
    quotient = core.nodes[-1]
    scaling = editor.reader(quotient.output[0], "Mul")
    if scaling is None:
        return "nothing scales the result"
    gamma = _parameter(editor, scaling, quotient.output[0], shape[axis:])
    if gamma is None:
        return f"the factor is not of the normalized shape {list(shape[axis:])}"
    return _replace(editor, core, scaling, gamma, axis)


def _replace(editor: GraphEditor, core: _Core, scaling: onnx.NodeProto, gamma: str, axis: int) -> str | None:
    shape = editor.shape(core.source)
    assert shape is not None
    nodes, inputs = [*core.nodes, scaling], [core.source, gamma]
    shift = editor.reader(scaling.output[0], "Add")
    beta = None
    if shift is not None and editor.why_shared(scaling.output[0], shift) is None:
        beta = _parameter(editor, shift, scaling.output[0], shape[axis:])
    if shift is not None and beta is not None:
        nodes.append(shift)
        inputs.append(beta)
    reason = editor.why_not_private(nodes)
    if reason is not None:
        return reason
    fused = onnx.helper.make_node(
        "LayerNormalization", inputs, [nodes[-1].output[0]], name=nodes[-1].name, axis=axis - len(shape)
    )
    fused.attribute.append(onnx.helper.make_attribute("epsilon", core.epsilon))
    editor.replace(nodes, fused)
    return None


def _first_axis(editor: GraphEditor, core: _Core) -> int | str:
    """The axis from which on both means go, if they do, with sizes that are known."""
    shape = editor.shape(core.source)
    if shape is None:
        return "the rank of the input is not known"
    found = [_axes(editor, mean, len(shape)) for mean in core.means]
    first = min(found[0], default=len(shape)) if found[0] is not None else 0
    if found[0] is None or found[0] != found[1] or found[0] != list(range(first, len(shape))) or not found[0]:
        return "the means do not go over the same trailing axes"
    if any(int_attribute(mean, "keepdims", 1) == 0 for mean in core.means):
        return "a mean drops its axes"
    return first if -1 not in shape[first:] else "the normalized axes have open sizes"


def _axes(editor: GraphEditor, mean: onnx.NodeProto, rank: int) -> list[int] | None:
    if editor.opset < _AXES_ARE_INPUTS:
        axes = ints_attribute(mean, "axes")
    else:
        constant = editor.constant(input_at(mean, 1))
        axes = None if constant is None else [int(axis) for axis in constant.reshape(-1)]
    return None if axes is None else sorted(axis % rank for axis in axes)


def _parameter(editor: GraphEditor, node: onnx.NodeProto, value: str, shape: tuple[int, ...]) -> str | None:
    """Name of the other operand in the normalized shape; a constant is brought into it."""
    name = next((one for one in node.input if one != value), "")
    if name and editor.shape(name) == shape:
        return name
    constant = editor.constant(name)
    if constant is None or constant.size not in (1, np.prod(shape)):
        return None
    trailing = constant.shape[constant.ndim - len(shape) :]
    if constant.size != 1 and trailing != shape:
        return None
    full = np.broadcast_to(constant.reshape(() if constant.size == 1 else shape), shape)
    return editor.add_weight(f"{name}_normalized", full.copy())
