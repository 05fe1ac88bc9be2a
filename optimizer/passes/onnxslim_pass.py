"""The door to onnxslim: fusions and shape folding of a kept-up library.

Declines opsets before 7, which the library cannot read.
"""

from enginehouse.errors import MissingExtra
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.passes.rewrite_pass import Rewritten

_OLDEST_OPSET = 7


def slim(graph: Graph) -> Rewritten:
    if graph.opset < _OLDEST_OPSET:
        reason = f"onnxslim does not read opset {graph.opset}; opset {_OLDEST_OPSET} is needed"
        return Rewritten(graph, changed=False, declined=(Declined(reason, "the graph"),))
    try:
        import onnxslim
    except ImportError as problem:
        raise MissingExtra("onnxslim", "optimizer", "the pass onnxslim") from problem
    result = Graph(onnxslim.slim(graph.copy()))
    changed = result.op_counts() != graph.op_counts() or result.parameter_count != graph.parameter_count
    return Rewritten(result if changed else graph, changed)
