"""Explain the published engine: layer by layer, and where its ranges come from."""

from collections import Counter
from collections.abc import Mapping, Sequence

from enginehouse.evidence import CalibrationRecord, EngineProof, LayerRecord
from optimizer.data.samples import calibration_split
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer, layers_of
from optimizer.plan import Plan
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.tried import Tried


def layer_records(graph: Graph, chosen: Tried, facts: Sequence[LayerFacts]) -> tuple[LayerRecord, ...]:
    """One record for each layer of the rewritten graph."""
    known = {fact.layer.name: fact for fact in facts}
    precisions = _precisions(chosen.proof)
    return tuple(_record(layer, chosen, known.get(layer.name), precisions) for layer in layers_of(graph))


def calibration_record(plan: Plan, chosen: Tried | None) -> CalibrationRecord | None:
    """Where the ranges come from, and what is to be said of the rows, whichever engine won.

    Without ranges in the chosen engine (None is the source) no rows were read for it; the record then stands for its
    stamp or its warnings, and is None without them.
    """
    if plan.data is None:
        return None
    calibration = chosen.calibration if chosen else None
    if calibration is None and not plan.is_random and not plan.warnings:
        return None
    split = calibration_split(plan.data)
    rows, available, has_converged = calibration or (0, plan.data.rows[split] if split else 0, False)
    ranges = chosen.ranges if chosen else {}
    counts = Counter(calibrator for _, _, calibrator in ranges.values())
    return CalibrationRecord(
        split=split or "",
        rows=rows,
        rows_available=available,
        has_converged=has_converged,
        is_random=plan.is_random,
        calibrators=dict(sorted(counts.items())),
        ranges={name: (low, high) for name, (low, high, _) in sorted(ranges.items())},
        warnings=plan.warnings,
    )


def _record(layer: Layer, chosen: Tried, fact: LayerFacts | None, precisions: Mapping[str, str]) -> LayerRecord:
    wanted = chosen.trial.precision_of(layer.name)
    found = precisions.get(layer.name, wanted)
    sensitivity = fact.sensitivity if fact else None
    return LayerRecord(
        name=layer.name,
        operator=layer.operator,
        precision=found,
        sensitivity=sensitivity if sensitivity is None or sensitivity < float("inf") else None,
        time_ms=fact.time_ms if fact else None,
        saved_ms=fact.saved_ms if fact else None,
        reason=_reason(layer, chosen, fact, found),
    )


def _reason(layer: Layer, chosen: Tried, fact: LayerFacts | None, found: str) -> str:
    if layer.name in chosen.trial.layers:
        error = f": lowered alone it changes the outputs by {fact.sensitivity:.2g}" if fact and fact.sensitivity else ""
        return f"kept in {chosen.trial.layers[layer.name]} by the search{error}"
    kept = chosen.kept.get(layer.name) or (chosen.proof.kept.get(layer.name) if chosen.proof else None)
    if kept:
        return kept
    if found == "fp32" and chosen.trial.precision != "fp32":
        return f"not lowered: this {layer.operator} has no {chosen.trial.precision} form, or values that it cannot hold"
    return "as the source" if chosen.trial.precision == "fp32" else "inside the tolerance"


def _precisions(proof: EngineProof | None) -> dict[str, str]:
    """What the engine says it computes each ONNX node in."""
    return {node: layer.precision for layer in (proof.layers if proof else ()) for node in layer.source_nodes}
