"""Raise the opset of a graph so that it can be quantized; the engine is verified like any other."""

from onnx import version_converter

from optimizer.graph.declined import Declined
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph
from optimizer.quantize.int8 import LOWEST_OPSET


def with_quantizable_opset(graph: Graph) -> Graph | Declined:
    """The graph itself where weights can have a scale per channel, otherwise a converted one, or why not."""
    return with_opset(graph, LOWEST_OPSET)


def with_opset(graph: Graph, lowest: int) -> Graph | Declined:
    """The graph itself where its opset is new enough, otherwise a converted one, or why it cannot be converted."""
    if graph.opset >= lowest:
        return graph
    if graph.size_bytes > INLINE_LIMIT_BYTES:
        return Declined(f"opset {graph.opset} is too old, and a model beyond 2 GB cannot be converted")
    try:
        return Graph(version_converter.convert_version(graph.model, lowest))
    except (RuntimeError, ValueError, IndexError) as problem:
        first = str(problem).strip().splitlines() or [type(problem).__name__]
        return Declined(f"opset {graph.opset} is too old and cannot be converted to {lowest}: {first[0]}")
