"""The door to onnxslim: fusions and shape folding of a kept-up library."""

from enginehouse.errors import MissingExtra
from optimizer.graph import Graph
from optimizer.passes.rewrite_pass import Rewritten


def slim(graph: Graph) -> Rewritten:
    try:
        import onnxslim
    except ImportError as problem:
        raise MissingExtra("onnxslim", "optimizer", "the pass onnxslim") from problem
    result = Graph(onnxslim.slim(graph.copy()))
    changed = result.op_counts() != graph.op_counts() or result.parameter_count != graph.parameter_count
    return Rewritten(result if changed else graph, changed)
