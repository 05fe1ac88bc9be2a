"""Count the values of tensors into bins, a bounded number of bytes at a time.

Tensors are fetched in groups, and rows in parts, so that one run never brings back more than `_FETCH_BYTES`, whatever
the model; a single row of a single tensor is the least that can be fetched.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from enginehouse.dtype import Array
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.feed_parts import feed_parts, row_bytes, rows_within
from optimizer.quantize.observation import BINS

_FETCH_BYTES = 128 << 20
_FETCHED = "/fetched"


class HistogramCounter:
    """Runs the graph and counts.

    Args:
        graph: what is observed.
        tensors: in the order of the rows of `counts`.
        lowest, highest: the ranges to be divided into bins.
        workdir: for the graphs that bring the tensors back.
        threads: inside one operator.
    """

    def __init__(
        self, graph: Graph, tensors: Sequence[str], lowest: Array, highest: Array, workdir: Path, threads: int
    ) -> None:
        self._graph, self._tensors = graph, tuple(tensors)
        self._lowest = lowest
        with np.errstate(divide="ignore", invalid="ignore"):
            scales = BINS / (highest - lowest)
        self._scales = np.where(np.isfinite(scales), scales, 0.0)
        self._workdir, self._threads = workdir, threads
        self._groups: list[tuple[Sequence[int], OnnxRuntimeEngine, int | None]] = []

    def add(self, feed: Tensors, counts: Array) -> None:
        """Count one feed into `counts`, tensors by bins."""
        if not self._groups:
            self._groups = list(self._grouped(feed))
        for positions, engine, rows in self._groups:
            for part in feed_parts(feed, rows):
                outputs = engine.run(part)
                for position in positions:
                    counts[position] += self._count(position, outputs[self._tensors[position] + _FETCHED])

    def close(self) -> None:
        for _, engine, _ in self._groups:
            engine.close()

    def _count(self, position: int, values: Array) -> Array:
        """Values beyond the range, which rounding can bring, count at its ends; what is no number, at the low one."""
        scaled = values.reshape(-1) - np.float32(self._lowest[position])
        np.multiply(scaled, np.float32(self._scales[position]), out=scaled)
        np.fmax(scaled, np.float32(0), out=scaled)
        np.fmin(scaled, np.float32(BINS - 1), out=scaled)
        return np.bincount(scaled.astype(np.intp), minlength=BINS)

    def _grouped(self, feed: Tensors) -> Iterator[tuple[Sequence[int], OnnxRuntimeEngine, int | None]]:
        """Put tensors together while one row of all of them fits; rows are then as many as fit."""
        sizes = row_bytes(self._graph, self._tensors, feed, self._workdir, self._threads)
        group: list[int] = []
        for position, size in enumerate(sizes):
            if group and sum(sizes[one] for one in group) + size > _FETCH_BYTES:
                yield self._opened(group, sizes)
                group = []
            group.append(position)
        if group:
            yield self._opened(group, sizes)

    def _opened(self, group: list[int], sizes: Sequence[int]) -> tuple[Sequence[int], OnnxRuntimeEngine, int | None]:
        rows = rows_within(self._graph, sum(sizes[one] for one in group), _FETCH_BYTES)
        names = [self._tensors[position] for position in group]
        path = self._workdir / f"histogram-{group[0]}.onnx"
        _fetching(self._graph, names).save(path)
        return tuple(group), OnnxRuntimeEngine(path, self._threads), rows


def _fetching(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with the tensors as its only outputs, through nodes of their own: an input cannot be an output."""
    model = graph.copy()
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}{_FETCHED}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}{_FETCHED}", TensorProto.FLOAT, None))
    return Graph(model)
