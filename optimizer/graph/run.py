"""Run a graph in ONNX Runtime on feeds, without keeping a file."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginehouse.errors import EngineFailed
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph


def run_graph(graph: Graph, feeds: Sequence[Tensors], optimize: bool) -> Iterator[Tensors]:
    """Compute the outputs for each feed, one after another.

    Args:
        graph: what to run.
        feeds: inputs by name.
        optimize: let ONNX Runtime rewrite the graph first, as it does when it serves; without, it computes each
            node as it is written.

    Raises:
        EngineFailed: ONNX Runtime cannot open the graph, or fails while it runs.
    """
    engine = _open(graph, optimize)
    try:
        for feed in feeds:
            yield engine.run(feed)
    finally:
        engine.close()


def why_not_runnable(graph: Graph) -> str | None:
    """What ONNX Runtime says when it cannot open the graph; None if it can."""
    try:
        _open(graph, optimize=False).close()
    except EngineFailed as problem:
        return str(problem)
    return None


def _open(graph: Graph, optimize: bool) -> OnnxRuntimeEngine:
    """An open session needs its file no more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        graph.save(path)
        return OnnxRuntimeEngine(path, optimize=optimize)
