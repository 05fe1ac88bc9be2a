"""The lowest and the highest value of tensors, found by the graph itself: no tensor is brought back.

ONNX Runtime leaves reductions to the end of a run and keeps every observed tensor until then; so rows go in parts.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from enginehouse.dtype import Array
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.feed_parts import feed_parts, row_bytes, rows_within

_KEPT_BYTES = 128 << 20
_MINIMUM, _MAXIMUM = "/calibration_minimum", "/calibration_maximum"


class RangeObserver:
    """Runs the graph and tells the ranges of each feed.

    Args:
        graph: what is observed; it is copied.
        tensors: FP32 values that it computes or is fed.
        workdir: for the graph with its reductions.
        threads: inside one operator.

    Raises:
        EngineFailed: ONNX Runtime cannot open the graph.
    """

    def __init__(self, graph: Graph, tensors: Sequence[str], workdir: Path, threads: int) -> None:
        self._graph, self._tensors = graph, tuple(tensors)
        self._workdir, self._threads = workdir, threads
        path = workdir / "calibration-ranges.onnx"
        Graph(_reduced_model(graph, tensors)).save(path)
        self._engine = OnnxRuntimeEngine(path, threads)
        self._row_bytes = 0

    def observe(self, feed: Tensors) -> tuple[Array, Array]:
        """Lowest and highest value in this feed, in the order of the tensors.

        Infinity is an end like any other; ONNX Runtime may pass over a single value that is not a number.
        """
        if not self._row_bytes:
            self._row_bytes = sum(row_bytes(self._graph, self._tensors, feed, self._workdir, self._threads))
        rows = rows_within(self._graph, self._row_bytes, _KEPT_BYTES)
        found = [self._engine.run(part) for part in feed_parts(feed, rows)]
        lowest = np.array([[float(part[name + _MINIMUM]) for name in self._tensors] for part in found])
        highest = np.array([[float(part[name + _MAXIMUM]) for name in self._tensors] for part in found])
        return lowest.min(axis=0), highest.max(axis=0)

    def close(self) -> None:
        self._engine.close()


def _reduced_model(graph: Graph, tensors: Sequence[str]) -> ModelProto:
    """The graph with the two reductions as its only outputs."""
    model = graph.copy()
    del model.graph.output[:]
    for name in tensors:
        for operator, suffix in (("ReduceMin", _MINIMUM), ("ReduceMax", _MAXIMUM)):
            model.graph.node.append(helper.make_node(operator, [name], [name + suffix], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(name + suffix, TensorProto.FLOAT, []))
    return model
