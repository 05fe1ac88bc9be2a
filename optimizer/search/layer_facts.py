"""What is known of each layer: the error it causes when it alone is lowered, and the time that lowering it saves."""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.errors import EngineFailed, MissingExtra, NotSupported
from enginehouse.evidence import EngineProof
from optimizer.graph.declined import Declined
from optimizer.graph.layers import Layer, layers_of
from optimizer.search.budget import Budget
from optimizer.search.trial_runner import TrialRunner
from optimizer.trial import Trial

_ROWS = 64
_LEAST_MS = 1e-6


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer in one lowered form.

    Attributes:
        layer: which.
        sensitivity: error of the model's outputs when it alone is lowered; None where the budget ended first.
        time_ms: in the source's precision; None where the engine does not tell.
        saved_ms: how much of that the lowered form saves.
    """

    layer: Layer
    sensitivity: float | None
    time_ms: float | None
    saved_ms: float | None

    @property
    def price(self) -> float:
        """Error per millisecond saved: what is reverted first costs most accuracy for the least time."""
        return (self.sensitivity or 0.0) / max(self.saved_ms or 0.0, _LEAST_MS)


def layer_facts(
    runner: TrialRunner,
    trial: Trial,
    layers: Sequence[str],
    proofs: tuple[EngineProof | None, EngineProof | None],
    budget: Budget,
) -> tuple[LayerFacts, ...]:
    """Measure each layer.

    Args:
        runner: makes and opens engines.
        trial: the lowered form that is asked about.
        layers: which ones it lowers.
        proofs: of the float engine and of the lowered one, for their times.
        budget: where it ends, the remaining layers have no sensitivity.
    """
    before, after = (_times(proof) for proof in proofs)
    found = []
    for layer in layers_of(runner.workshop.graph):
        if layer.name not in layers:
            continue
        sensitivity = None if budget.is_spent else _sensitivity(runner, trial, layer.name)
        time = before.get(layer.name)
        saved = time - after[layer.name] if time is not None and layer.name in after else None
        found.append(LayerFacts(layer, sensitivity, time, saved))
    return tuple(found)


def _sensitivity(runner: TrialRunner, trial: Trial, layer: str) -> float:
    """In the trial's own engine: engines differ in what they make of one and the same graph."""
    alone = Trial(
        engine=trial.engine,
        precision="fp32",
        layers={layer: trial.precision},
        scheme=trial.scheme,
        calibrator=trial.calibrator,
        hint=trial.hint,
    )
    try:
        with runner.opened(alone) as engine:
            return float("inf") if isinstance(engine, Declined) else runner.reference.error(engine, _ROWS)
    except (EngineFailed, MissingExtra, NotSupported):
        return float("inf")


def _times(proof: EngineProof | None) -> dict[str, float]:
    """Milliseconds by ONNX node; what was fused from several nodes is shared among them."""
    times: dict[str, float] = {}
    for layer in proof.layers if proof else ():
        for node in layer.source_nodes:
            times[node] = times.get(node, 0.0) + (layer.time_ms or 0.0) / len(layer.source_nodes)
    return times
