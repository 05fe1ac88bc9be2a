"""Cut feeds into parts, so that what one run keeps of a graph's tensors stays below a bound, whatever the model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from onnx import TensorProto, helper

from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph

_FLOAT_BYTES = 4
_SIZE = "/calibration_size"


def feed_parts(feed: Tensors, rows: int | None) -> Iterator[Tensors]:
    """Cut a feed into parts of so many rows; None leaves it whole."""
    if rows is None:
        yield feed
        return
    for start in range(0, len(next(iter(feed.values()))), rows):
        yield {name: array[start : start + rows] for name, array in feed.items()}


def rows_within(graph: Graph, row_bytes: int, limit: int) -> int | None:
    """How many rows stay within so many bytes, at least one; None where a feed has no rows to be cut into."""
    return max(1, limit // max(1, row_bytes)) if graph.batch_axis_open else None


def row_bytes(graph: Graph, tensors: Sequence[str], feed: Tensors, workdir: Path, threads: int) -> list[int]:
    """How large each FP32 tensor is for one row like those of this feed: the graph itself counts the elements."""
    path = workdir / "calibration-sizes.onnx"
    _sizing(graph, tensors).save(path)
    engine = OnnxRuntimeEngine(path, threads)
    try:
        sizes = engine.run(next(feed_parts(feed, rows_within(graph, 1, 1))))
    finally:
        engine.close()
    return [int(sizes[name + _SIZE]) * _FLOAT_BYTES for name in tensors]


def _sizing(graph: Graph, names: Sequence[str]) -> Graph:
    model = graph.copy()
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Size", [name], [name + _SIZE]))
        model.graph.output.append(helper.make_tensor_value_info(name + _SIZE, TensorProto.INT64, []))
    return Graph(model)
