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
from optimizer.quantize.observation import BINS

_FETCH_BYTES = 64 << 20
_FLOAT_BYTES = 4
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
        self._groups: list[tuple[Sequence[int], OnnxRuntimeEngine, int]] = []

    def add(self, feed: Tensors, counts: Array) -> None:
        """Count one feed into `counts`, tensors by bins."""
        if not self._groups:
            self._groups = list(self._grouped(feed))
        for positions, engine, rows in self._groups:
            for part in _parts(feed, rows if self._graph.batch_axis_open else 0):
                outputs = engine.run(part)
                for position in positions:
                    counts[position] += self._count(position, outputs[self._tensors[position] + _FETCHED])

    def close(self) -> None:
        for _, engine, _ in self._groups:
            engine.close()

    def _count(self, position: int, values: Array) -> Array:
        """Values beyond the range, which rounding can bring, count at its ends."""
        scaled = (values.ravel() - np.float32(self._lowest[position])) * np.float32(self._scales[position])
        bins = np.clip(np.nan_to_num(scaled), 0, BINS - 1).astype(np.int32)
        return np.bincount(bins, minlength=BINS)

    def _grouped(self, feed: Tensors) -> Iterator[tuple[Sequence[int], OnnxRuntimeEngine, int]]:
        """Put tensors together while one row of all of them fits; rows are then as many as fit."""
        sizes = self._row_bytes(feed)
        group: list[int] = []
        for position, size in enumerate(sizes):
            if group and sum(sizes[one] for one in group) + size > _FETCH_BYTES:
                yield self._opened(group, sizes)
                group = []
            group.append(position)
        if group:
            yield self._opened(group, sizes)

    def _opened(self, group: list[int], sizes: Sequence[int]) -> tuple[Sequence[int], OnnxRuntimeEngine, int]:
        rows = max(1, _FETCH_BYTES // max(1, sum(sizes[one] for one in group)))
        names = [self._tensors[position] for position in group]
        path = self._workdir / f"histogram-{group[0]}.onnx"
        _fetching(self._graph, names).save(path)
        return tuple(group), OnnxRuntimeEngine(path, self._threads), rows

    def _row_bytes(self, feed: Tensors) -> list[int]:
        """How large each tensor is for one row: the graph itself counts the elements."""
        path = self._workdir / "histogram-sizes.onnx"
        _sizing(self._graph, self._tensors).save(path)
        engine = OnnxRuntimeEngine(path, self._threads)
        part = next(_parts(feed, 1 if self._graph.batch_axis_open else 0))
        sizes = engine.run(part)
        engine.close()
        return [int(sizes[f"{name}/size"]) * _FLOAT_BYTES for name in self._tensors]


def _parts(feed: Tensors, rows: int) -> Iterator[Tensors]:
    """Cut a feed into parts of so many rows; 0 leaves it whole."""
    count = len(next(iter(feed.values()))) if rows else 1
    for start in range(0, count, rows or 1):
        yield {name: array[start : start + rows] for name, array in feed.items()} if rows else feed


def _fetching(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with the tensors as its only outputs, through nodes of their own: an input cannot be an output."""
    model = graph.copy()
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}{_FETCHED}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}{_FETCHED}", TensorProto.FLOAT, None))
    return Graph(model)


def _sizing(graph: Graph, names: Sequence[str]) -> Graph:
    model = graph.copy()
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Size", [name], [f"{name}/size"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}/size", TensorProto.INT64, []))
    return Graph(model)
