"""Run a graph in segments over all feeds, so that what a repair learns at one stop holds for everything behind it.

A segment is what the next stop needs and has not been computed yet. Every node runs once per feed, however many stops
there are; what later segments read waits on disk, so memory holds the values of one batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.layer_weights import with_weights
from optimizer.repair.output_error import opened
from optimizer.repair.segment_plan import Segment, needs, planned


class Segments:
    """A graph on its way from stop to stop.

    Args:
        graph: what to run, as it is written; its nodes are in order.
        feeds: inputs by name, one mapping per batch.
        stops: the values to be had at each stop; a value at a later stop may depend on those of earlier ones.
        folder: where values wait.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Tensors], stops: Sequence[Sequence[str]], folder: Path) -> None:
        self._graph = graph
        self._feeds = feeds
        self._plan = planned(graph, stops)
        self._stops = stops
        self._done = 0
        self._shelf = _Shelf(folder)
        self._weights: dict[str, Array] = {}
        self._subtracted: dict[str, Array] = {}

    def advance(self) -> None:
        """Run every feed to the next stop.

        Raises:
            EngineFailed: the graph cannot be opened or run.
        """
        segment = self._plan[self._done]
        if segment.nodes:
            with opened(self._model(segment), optimize=False) as engine:
                for batch in range(len(self._feeds)):
                    outputs = engine.run({spec.name: self._value(spec.name, batch) for spec in engine.inputs})
                    for name in segment.keeps:
                        self._shelf.put(name, batch, outputs[name])
        self._done += 1
        needed = {name for later in self._plan[self._done :] for name in later.reads}
        self._shelf.keep_only(needed.union(*self._stops[self._done - 1 :]))

    def batches(self, value: str) -> Iterator[Array]:
        """A value of the stop just reached, batch by batch."""
        return (self._value(value, batch) for batch in range(len(self._feeds)))

    def subtract(self, value: str, shift: Array) -> None:
        """Let everything behind this stop read the value less the shift, which broadcasts."""
        self._subtracted[value] = shift.astype(np.float32)

    def replace_weight(self, name: str, array: Array) -> None:
        """Let everything behind this stop compute with another initializer of the same type."""
        self._weights[name] = array

    def _value(self, name: str, batch: int) -> Array:
        if name in self._feeds[batch]:
            return self._feeds[batch][name]
        array = self._shelf.get(name, batch)
        return array - self._subtracted[name] if name in self._subtracted else array

    def _model(self, segment: Segment) -> Graph:
        """The nodes of the segment; what it reads has the types that the first batch has."""
        source = self._graph.model.graph
        nodes = [source.node[position] for position in segment.nodes]
        used = {name for node in nodes for name in needs(node)}
        fed = {spec.name for spec in self._graph.inputs} & used
        inputs = [value for value in source.input if value.name in fed]
        inputs += [_declared(name, self._value(name, 0)) for name in segment.reads if name not in fed]
        outputs = [onnx.ValueInfoProto(name=name) for name in segment.keeps]
        weights = [tensor for tensor in source.initializer if tensor.name in used]
        graph = helper.make_graph(nodes, "segment", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=self._graph.model.opset_import)
        model.ir_version = max(self._graph.model.ir_version, 4)
        model.functions.extend(self._graph.model.functions)
        return with_weights(Graph(model), {name: array for name, array in self._weights.items() if name in used})


class _Shelf:
    """Arrays on disk by value and batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[tuple[str, int], tuple[Path, np.dtype[np.generic]]] = {}
        self._count = 0

    def put(self, name: str, batch: int, array: Array) -> None:
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        np.save(path, array)
        self._found[name, batch] = path, array.dtype

    def get(self, name: str, batch: int) -> Array:
        path, dtype = self._found[name, batch]
        array: Array = np.load(path)
        return array.view(dtype)  # a file knows BF16 only as two bytes

    def keep_only(self, names: set[str]) -> None:
        for key in [key for key in self._found if key[0] not in names]:
            self._found.pop(key)[0].unlink()


def _declared(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
