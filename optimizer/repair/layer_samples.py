"""What a layer multiplies its weights with, as rows of a matrix: a share of the positions of each row of the feeds."""

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view

from enginehouse.dtype import Array
from optimizer.graph.nodes import int_attribute, ints_attribute, text_attribute


def why_not_sampled(node: onnx.NodeProto) -> str | None:
    """Say why the inputs of a layer cannot be told; None if they can."""
    padding = text_attribute(node, "auto_pad", "NOTSET")
    return None if padding in ("NOTSET", "VALID") else f"it pads by itself ({padding})"


def layer_samples(node: onnx.NodeProto, activation: Array, kernel: tuple[int, ...], positions: int) -> Array:
    """Rows [row of the feed, group, position, input] in the order of the weights, input by kernel position within.

    Args:
        node: a Conv, Gemm or MatMul.
        activation: what it reads.
        kernel: the spatial sizes of a Conv's weights.
        positions: take at most so many positions of each row, spread evenly and differently from row to row.
    """
    if node.op_type != "Conv":
        rows = activation.reshape(len(activation), -1, activation.shape[-1])
        return _spread(rows, positions)[:, None]
    windows = _windows(node, activation, kernel)  # row, channel, out positions..., kernel...
    rank = len(kernel)
    count = int(np.prod(windows.shape[2 : 2 + rank]))
    groups = int_attribute(node, "group", 1)
    found = []
    for number, row in enumerate(windows):
        chosen = np.unravel_index(_chosen(count, positions, number), windows.shape[2 : 2 + rank])
        patches = row[(slice(None), *chosen)].reshape(groups, -1, len(chosen[0]), int(np.prod(kernel)))
        found.append(patches.transpose(0, 2, 1, 3).reshape(groups, len(chosen[0]), -1))
    return np.stack(found)


def _windows(node: onnx.NodeProto, activation: Array, kernel: tuple[int, ...]) -> Array:
    rank = len(kernel)
    pads = ints_attribute(node, "pads") or [0] * 2 * rank
    strides = ints_attribute(node, "strides") or [1] * rank
    dilations = ints_attribute(node, "dilations") or [1] * rank
    padded = np.pad(activation, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    extents = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + rank)))
    steps = (*(slice(None, None, stride) for stride in strides), *(slice(None, None, each) for each in dilations))
    view: Array = windows[(slice(None), slice(None), *steps)]
    return view


def _spread(rows: Array, positions: int) -> Array:
    if rows.shape[1] <= positions:
        return rows
    return np.stack([row[_chosen(rows.shape[1], positions, number)] for number, row in enumerate(rows)])


def _chosen(count: int, wanted: int, number: int) -> Array:
    """Evenly spread positions, shifted from row to row so that together they cover all."""
    if count <= wanted:
        return np.arange(count)
    chosen: Array = np.sort((np.arange(wanted) * count // wanted + number) % count)
    return chosen
