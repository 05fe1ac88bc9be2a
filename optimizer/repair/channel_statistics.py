"""Statistics of activations by channel: the graph itself reduces each tensor, so memory stays that of one batch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.output_error import opened

_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean", "ReduceSumSquare")
_AXES_ARE_INPUTS_SINCE = 18


@dataclass(frozen=True, slots=True, order=True)
class Channels:
    """Where a tensor keeps its channels: how many, on axis 1 (`is_last` false) or on the last axis."""

    count: int
    is_last: bool


# A value of a graph, and where it keeps its channels.
Site = tuple[str, Channels]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Of one tensor over all feeds, FP64 by channel."""

    lowest: Array
    highest: Array
    mean: Array
    mean_square: Array


def channel_statistics(
    graph: Graph, sites: Collection[Site], feeds: Sequence[Tensors]
) -> dict[Site, ChannelStatistics]:
    """Observe FP32 values of a graph, which is computed as it is written.

    Raises:
        EngineFailed: the graph cannot be opened or run.
    """
    running = {site: _Running(site[1].count) for site in sorted(set(sites))}
    with opened(Graph(_observed_model(graph, list(running))), optimize=False) as engine:
        for feed in feeds:
            outputs = engine.run(feed)
            for site, each in running.items():
                each.update([outputs[_output(site, reduction)] for reduction in (*_REDUCTIONS, "Size")])
    return {site: each.statistics() for site, each in running.items()}


class _Running:
    """Four numbers per channel; batches of different sizes weigh by their size."""

    def __init__(self, count: int) -> None:
        self._lowest, self._highest = np.full(count, np.inf), np.full(count, -np.inf)
        self._sum, self._square_sum, self._positions = np.zeros(count), np.zeros(count), 0.0

    def update(self, reduced: Sequence[Array]) -> None:
        lowest, highest, mean, square_sum, size = (np.asarray(array, np.float64) for array in reduced)
        positions = float(size) / len(self._sum)
        self._lowest, self._highest = np.minimum(self._lowest, lowest), np.maximum(self._highest, highest)
        self._sum += mean * positions
        self._square_sum += square_sum
        self._positions += positions

    def statistics(self) -> ChannelStatistics:
        positions = max(self._positions, 1.0)
        return ChannelStatistics(self._lowest, self._highest, self._sum / positions, self._square_sum / positions)


def _observed_model(graph: Graph, sites: Sequence[Site]) -> onnx.ModelProto:
    """The graph with the reductions as its only outputs."""
    model = graph.copy()
    del model.graph.output[:]
    for site in sites:
        name, found = site
        flat = _output(site, "Flat")
        shape = [-1, found.count] if found.is_last else [0, found.count, -1]
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{flat}_shape"))
        model.graph.node.append(helper.make_node("Reshape", [name, f"{flat}_shape"], [flat]))
        for reduction in _REDUCTIONS:
            _reduce(model, reduction, flat, _output(site, reduction), [0] if found.is_last else [0, 2], graph.opset)
        model.graph.node.append(helper.make_node("Size", [name], [_output(site, "Size")]))
        model.graph.output.append(helper.make_tensor_value_info(_output(site, "Size"), TensorProto.INT64, None))
    return model


def _reduce(model: onnx.ModelProto, operator: str, value: str, target: str, axes: list[int], opset: int) -> None:
    if opset >= _AXES_ARE_INPUTS_SINCE:
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{target}_axes"))
        node = helper.make_node(operator, [value, f"{target}_axes"], [target], keepdims=0)
    else:
        node = helper.make_node(operator, [value], [target], keepdims=0, axes=axes)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, None))


def _output(site: Site, reduction: str) -> str:
    return f"{site[0]}/{'last' if site[1].is_last else 'second'}_axis_{reduction}"
