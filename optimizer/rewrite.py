"""Run the passes in their order, and keep of each only what is proven.

After each pass the checker runs, inputs and outputs are compared with the source's, and the rewritten graph runs on
real feeds in ONNX Runtime twice: with its own graph optimizations off, where every node is computed as the pass wrote
it, and with them on, as the graph will be served. The reference is the source with them off. A pass that raises or
changes an output is dropped, by name, and the next one starts from the graph before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, cast

import onnx

from enginehouse.errors import InvalidInput
from enginehouse.evidence import PassRecord
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.equal_outputs import difference
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph
from optimizer.graph.interface import keep_interface
from optimizer.graph.run import run_graph
from optimizer.passes.rewrite_pass import PASSES, RewritePass

_DECLINED_SHOWN = 3
Outcome = Literal["kept", "unchanged", "dropped"]


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a rewritten graph must reproduce."""

    source: Graph
    feeds: Sequence[Tensors]
    expected: Sequence[Tensors]


def rewrite(
    graph: Graph,
    feeds: Sequence[Tensors],
    on_pass: Callable[[str, int, int], None] | None = None,
    passes: Mapping[str, str] = PASSES,
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """Rewrite a graph.

    Args:
        graph: the source.
        feeds: real inputs, of at least two batch sizes where the batch axis is open.
        on_pass: told the name, the position and the number of passes as each one begins.
        passes: name to import string, in order.

    Returns:
        The last graph that was proven, and what each pass did.

    Raises:
        InvalidInput: there are no feeds, or only one batch size for an open batch axis.
        EngineFailed: the source itself cannot be run on the feeds.
    """
    _check_feeds(graph, feeds)
    proof = _Proof(graph, feeds, tuple(run_graph(graph, feeds, optimize=False)))
    records: list[PassRecord] = []
    for position, (name, target) in enumerate(passes.items()):
        if on_pass is not None:
            on_pass(name, position, len(passes))
        graph, record = _attempt(name, target, graph, proof)
        records.append(record)
    return graph, tuple(records)


def _check_feeds(graph: Graph, feeds: Sequence[Tensors]) -> None:
    if not feeds:
        raise InvalidInput("there are no feeds to prove a rewrite with; at least one is needed.")
    names = [spec.name for spec in graph.inputs]
    if graph.batch_axis_open and names and len({len(feed[names[0]]) for feed in feeds}) < 2:
        raise InvalidInput("all feeds have the same batch size; a model with an open batch axis needs two or more.")


def _attempt(name: str, target: str, graph: Graph, proof: _Proof) -> tuple[Graph, PassRecord]:
    """Run one pass; whatever a library raises, or tries to exit with, drops this pass and nothing else."""
    try:
        result = _pass_from(target)(graph)
        if not result.changed:
            return graph, _record(name, "unchanged", graph, graph, _detail(result.declined))
        rewritten = keep_interface(proof.source, result.graph)
        reason = _why_not_equal(rewritten, proof)
    except (Exception, SystemExit) as problem:
        return graph, _record(name, "dropped", graph, graph, f"{type(problem).__name__}: {_first_line(problem)}")
    if reason is not None:
        return graph, _record(name, "dropped", graph, graph, reason)
    return rewritten, _record(name, "kept", graph, rewritten, _detail(result.declined))


def _pass_from(target: str) -> RewritePass:
    module, _, function = target.partition(":")
    return cast(RewritePass, getattr(import_module(module), function))


def _why_not_equal(rewritten: Graph, proof: _Proof) -> str | None:
    if rewritten.size_bytes <= INLINE_LIMIT_BYTES:
        onnx.checker.check_model(rewritten.model, full_check=True)
    for optimize in (False, True):
        outputs = run_graph(rewritten, proof.feeds, optimize)
        for position, (expected, found) in enumerate(zip(proof.expected, outputs, strict=True)):
            reason = difference(expected, found)
            if reason is not None:
                how = "on" if optimize else "off"
                return f"it changes the model on feed {position}, with ONNX Runtime's optimizations {how}: {reason}"
    return None


def _record(name: str, outcome: Outcome, before: Graph, after: Graph, detail: str) -> PassRecord:
    return PassRecord(
        name=name, outcome=outcome, nodes_before=before.node_count, nodes_after=after.node_count, detail=detail
    )


def _detail(declined: Sequence[Declined]) -> str:
    if not declined:
        return ""
    shown = "; ".join(str(one) for one in declined[:_DECLINED_SHOWN])
    more = len(declined) - _DECLINED_SHOWN
    return f"declined {shown}{f'; and {more} more' if more > 0 else ''}"


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0]
