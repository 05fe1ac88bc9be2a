"""Raise the opset of an old graph so that it can be quantized per channel; the candidate is verified like any other."""

from onnx import version_converter

from optimizer.graph.declined import Declined
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph
from optimizer.quantize.int8 import LOWEST_OPSET


def with_quantizable_opset(graph: Graph) -> Graph | Declined:
    """The graph itself where its opset is new enough, otherwise a converted one, or why it cannot be converted."""
    if graph.opset >= LOWEST_OPSET:
        return graph
    if graph.size_bytes > INLINE_LIMIT_BYTES:
        return Declined(f"opset {graph.opset} is too old, and a model beyond 2 GB cannot be converted")
    try:
        return Graph(version_converter.convert_version(graph.model, LOWEST_OPSET))
    except (RuntimeError, ValueError, IndexError) as problem:
        first = str(problem).strip().splitlines() or [type(problem).__name__]
        return Declined(f"opset {graph.opset} is too old and cannot be converted to {LOWEST_OPSET}: {first[0]}")
