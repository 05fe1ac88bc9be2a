"""Simulate what x86 without VNNI does to U8S8: it adds two products of bytes in 16 bits, and clamps what does not fit.

The instruction is VPMADDUBSW: (a0 * w0 + a1 * w1) with unsigned a and signed w, saturated to [-32768, 32767], for
neighbours along the summed axis. With weights of seven bits (at most 64) no pair can leave 16 bits. Depthwise
convolutions are left out: ONNX Runtime widens each product there before it adds.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx import NodeProto, TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of, named_graph
from optimizer.graph.nodes import int_attribute, ints_attribute, text_attribute
from optimizer.graph.run import run_graph

_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
# Sums that are looked at, per layer and feed: enough to see a share of one in ten thousand.
_ROWS = 64
_ROWS_AT_ONCE = 8


def saturation_share(graph: Graph, quantized: Graph, feeds: Sequence[Tensors]) -> dict[str, float]:
    """For each layer of `graph` that `quantized` computes as U8S8: the share of pair sums that would saturate.

    Args:
        graph: the float graph that was quantized.
        quantized: what static INT8 made of it.
        feeds: real rows.
    """
    names = {layer.name for layer in layers_of(named_graph(graph))}
    found = [
        layer for node in quantized.model.graph.node if node.name in names for layer in _integer_layer(quantized, node)
    ]
    endangered = [layer for layer in found if layer.can_saturate()]
    counts = {layer.node.name: [0, 0] for layer in found}
    watched = _watched(quantized, [layer.activation for layer in endangered])
    for outputs in run_graph(watched, feeds, optimize=False) if endangered else ():
        for layer in endangered:
            for sums in layer.pair_sums(outputs[layer.activation]):
                counts[layer.node.name][0] += int(((sums < _LOWEST) | (sums > _HIGHEST)).sum())
                counts[layer.node.name][1] += sums.size
    return {name: saturated / max(total, 1) for name, (saturated, total) in counts.items()}


class _IntegerLayer:
    """One layer with U8 activations and S8 weights, as matrices of integers.

    Attributes:
        node: in the quantized graph.
        activation: name of its integers.
    """

    def __init__(self, node: NodeProto, activation: str, zero: int, weight: Array) -> None:
        self.node = node
        self.activation = activation
        self._zero = zero
        self._weight = weight.astype(np.int32)

    def can_saturate(self) -> bool:
        return any(_reach(matrix) > _HIGHEST for matrix in self._matrices())

    def pair_sums(self, integers: Array) -> Iterator[Array]:
        """[rows, pairs, outputs], a few rows at a time."""
        for rows, matrix in zip(self._rows(integers), self._matrices(), strict=True):
            rows = rows[np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int)].astype(np.int32)
            for first in range(0, len(rows), _ROWS_AT_ONCE):
                some = _paired(rows[first : first + _ROWS_AT_ONCE].T)
                yield np.einsum("pir,pio->rpo", some, _paired(matrix))

    def _matrices(self) -> list[Array]:
        """Weights as [summed, outputs], one for each group of a convolution."""
        if self.node.op_type != "Conv":
            return [self._weight.T if int_attribute(self.node, "transB", 0) else self._weight]
        groups = int_attribute(self.node, "group", 1)
        return [_channels_last(part).reshape(len(part), -1).T for part in np.split(self._weight, groups)]

    def _rows(self, integers: Array) -> list[Array]:
        """Activations as [rows, summed], one for each group."""
        if self.node.op_type != "Conv":
            upright = integers.T if int_attribute(self.node, "transA", 0) else integers
            return [upright.reshape(-1, upright.shape[-1])]
        groups = int_attribute(self.node, "group", 1)
        windows = _windows(self.node, integers, self._weight.shape[2:], self._zero)
        return [_window_rows(part) for part in np.split(windows, groups, axis=1)]


def _integer_layer(graph: Graph, node: NodeProto) -> Iterator[_IntegerLayer]:
    """The layer behind a node, if it computes as U8S8 and no faster kernel widens its products."""
    makers = {maker.output[0]: maker for maker in graph.model.graph.node if maker.op_type == "DequantizeLinear"}
    weights = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    activation, weight = (makers.get(name) for name in node.input[:2])
    if activation is None or weight is None or weight.input[0] not in weights:
        return
    zero = numpy_helper.to_array(weights[activation.input[2]])
    integers = numpy_helper.to_array(weights[weight.input[0]])
    if zero.dtype != np.uint8 or integers.dtype != np.int8 or (node.op_type == "Conv" and integers.shape[1] == 1):
        return
    yield _IntegerLayer(node, activation.input[0], int(zero), integers)


def _watched(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with these integers as its only outputs."""
    model = graph.copy()
    del model.graph.output[:]
    for name in dict.fromkeys(names):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    return Graph(model)


def _reach(matrix: Array) -> int:
    """The largest pair sum that any activation could give, in size."""
    pairs = _paired(matrix)
    return 255 * int(max(np.maximum(pairs, 0).sum(axis=1).max(), -np.minimum(pairs, 0).sum(axis=1).min()))


def _paired(matrix: Array) -> Array:
    """[summed, n] to [pairs, 2, n]; an odd one out is paired with zero."""
    padded = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    return padded.reshape(-1, 2, matrix.shape[1])


def _channels_last(weight: Array) -> Array:
    """ONNX Runtime sums channels innermost."""
    return np.moveaxis(weight, 1, -1)


def _windows(node: NodeProto, integers: Array, kernel: tuple[int, ...], zero: int) -> Array:
    """[batch, channels, *positions, *kernel], a view."""
    rank = len(kernel)
    dilations = ints_attribute(node, "dilations") or [1] * rank
    strides = ints_attribute(node, "strides") or [1] * rank
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    pads = _pads(node, integers.shape[2:], spans, strides)
    padded = np.pad(integers, ((0, 0), (0, 0), *pads), constant_values=zero)
    windows = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps = (*(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in dilations))
    return windows[(slice(None), slice(None), *steps)]


def _pads(node: NodeProto, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    automatic = text_attribute(node, "auto_pad", "NOTSET")
    if not automatic.startswith("SAME"):
        explicit = ints_attribute(node, "pads") or [0] * (2 * len(spans))
        return list(zip(explicit[: len(spans)], explicit[len(spans) :], strict=True))
    totals = [
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(sizes, spans, strides, strict=True)
    ]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if automatic == "SAME_UPPER" else [(after, before) for before, after in halves]


def _window_rows(windows: Array) -> Array:
    """[rows, kernel positions x channels], evenly spaced rows."""
    rank = (windows.ndim - 2) // 2
    last = np.moveaxis(windows, 1, -1)
    shape = last.shape[: 1 + rank]
    chosen = np.linspace(0, np.prod(shape) - 1, min(_ROWS, int(np.prod(shape)))).astype(int)
    picked = last[np.unravel_index(chosen, shape)]
    return picked.reshape(len(picked), -1)
