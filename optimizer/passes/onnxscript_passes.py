"""The doors to onnxscript: its optimizer, and its default rewrite rules.

Optimizer: folds constants and static shapes, inlines functions, and joins common subexpressions.
Rewriter: removes no-op reshapes, casts and transposes, joins slices, clips and rectifiers.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx

from enginehouse.errors import MissingExtra
from optimizer.graph.graph import Graph
from optimizer.passes.rewrite_pass import Rewritten

_OPSET_OF_ALLOWZERO = 14


def optimize_with_onnxscript(graph: Graph) -> Rewritten:
    try:
        from onnxscript import optimizer
    except ImportError as problem:
        raise MissingExtra("onnxscript", "optimizer", "the pass onnxscript_optimizer") from problem
    return _apply(graph, optimizer.optimize)


def rewrite_with_onnxscript(graph: Graph) -> Rewritten:
    try:
        from onnxscript import rewriter
    except ImportError as problem:
        raise MissingExtra("onnxscript", "optimizer", "the pass onnxscript_rewriter") from problem
    return _apply(graph, rewriter.rewrite)


def _apply(graph: Graph, rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Rewritten:
    """The library renames and reorders what it does not change, so the nodes decide whether anything changed."""
    with _quiet("onnxscript"), _quiet("onnx_ir"):
        model = rewrite(graph.copy())
    if graph.opset < _OPSET_OF_ALLOWZERO:
        _remove_allowzero(model.graph)
    result = Graph(model)
    changed = result.op_counts() != graph.op_counts() or result.parameter_count != graph.parameter_count
    return Rewritten(result if changed else graph, changed)


def _remove_allowzero(graph: onnx.GraphProto) -> None:
    """The rules write for the newest opset; without the attribute, a Reshape is what an older one calls it."""
    for node in graph.node:
        if node.op_type == "Reshape":
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's warnings about what it skips from the screen; what it did, the record says."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
