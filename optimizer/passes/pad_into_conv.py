"""Fold a Pad with zeros into the padding of the Conv that reads it.

    Conv(Pad(x, p), pads=q)  ->  Conv(x, pads=p+q)

Declines other modes and values, pads that are not constant, negative, or on the batch or channel axis, a Conv that
chooses its own padding (`auto_pad`), and a padded value that someone else reads too.
"""

import numpy as np
import onnx

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import float_attribute, input_at, ints_attribute, text_attribute
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten

_PADS_ARE_INPUTS = 11


def fold_pads_into_convs(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    for conv in editor.find("Conv"):
        pad = editor.producer(conv.input[0])
        if pad is not None and pad.op_type == "Pad":
            reason = _fold(editor, pad, conv)
            if reason is not None:
                editor.decline(pad, reason)
    return editor.rewritten()


def _fold(editor: GraphEditor, pad: onnx.NodeProto, conv: onnx.NodeProto) -> str | None:
    shared = editor.why_shared(pad.output[0], conv)
    if shared is not None:
        return shared
    if text_attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the convolution chooses its own padding (auto_pad)"
    spatial = _spatial_pads(editor, pad)
    if isinstance(spatial, str):
        return spatial
    old = ints_attribute(conv, "pads") or [0] * len(spatial)
    fused = onnx.NodeProto()
    fused.CopyFrom(conv)
    fused.input[0] = pad.input[0]
    for attribute in [one for one in fused.attribute if one.name in ("pads", "auto_pad")]:
        fused.attribute.remove(attribute)
    pads = [mine + theirs for mine, theirs in zip(spatial, old, strict=True)]
    fused.attribute.append(onnx.helper.make_attribute("pads", pads))
    editor.replace([pad, conv], fused)
    return None


def _spatial_pads(editor: GraphEditor, pad: onnx.NodeProto) -> list[int] | str:
    """Begin pads of every spatial axis and then end pads, as Conv writes them; or why there are none."""
    if text_attribute(pad, "mode", "constant") != "constant":
        return f"it pads by {text_attribute(pad, 'mode', '')}, not with a constant"
    reason = _why_not_zero(editor, pad)
    if reason is not None:
        return reason
    shape = editor.shape(pad.input[0])
    if shape is None:
        return "the rank of its input is not known"
    begins, ends = [0] * len(shape), [0] * len(shape)
    pads, axes = _pads(editor, pad), _axes(editor, pad, len(shape))
    if pads is None or axes is None:
        return "its pads are not constant"
    for position, axis in enumerate(axes):
        begins[axis] = pads[position]
        ends[axis] = pads[position + len(axes)]
    if any((*begins[:2], *ends[:2])):
        return "it pads the batch or the channels"
    if min(*begins, *ends) < 0:
        return "a negative pad cuts"
    return begins[2:] + ends[2:]


def _why_not_zero(editor: GraphEditor, pad: onnx.NodeProto) -> str | None:
    name = input_at(pad, 2)
    if editor.opset < _PADS_ARE_INPUTS or not name:
        value = float_attribute(pad, "value", 0.0)
    else:
        constant = editor.constant(name)
        if constant is None:
            return "its value is not constant"
        value = float(constant.reshape(-1)[0])
    return None if value == 0 else f"it pads with {value:g}, not with zero"


def _pads(editor: GraphEditor, pad: onnx.NodeProto) -> list[int] | None:
    if editor.opset < _PADS_ARE_INPUTS:
        return ints_attribute(pad, "pads" if editor.opset >= 2 else "paddings")
    constant = editor.constant(pad.input[1])
    return None if constant is None else [int(size) for size in constant]


def _axes(editor: GraphEditor, pad: onnx.NodeProto, rank: int) -> list[int] | None:
    if not input_at(pad, 3):
        return list(range(rank))
    constant = editor.constant(pad.input[3])
    return None if constant is None else [int(axis) % rank for axis in np.atleast_1d(constant)]
