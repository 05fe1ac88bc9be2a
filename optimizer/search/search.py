"""The search: whole-model trials, then repair and layers where that may pay.

A lowered engine that would beat everything accepted so far, but loses too much, climbs the repair ladder; what the
ladder cannot mend is mended layer by layer. Every trial that was run is kept in the evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.evidence import RepairRecord
from optimizer.graph.layers import layers_of
from optimizer.quantize.int8 import plan_int8
from optimizer.recipe import Recipe
from optimizer.search.budget import Budget, budget_of
from optimizer.search.ladder import climb
from optimizer.search.layer_facts import LayerFacts, layer_facts
from optimizer.search.layer_search import Value, revert_until_accepted, without_slow_layers
from optimizer.search.trial_runner import TrialRunner
from optimizer.search.tried import Tried
from optimizer.search.whole_model import engines_to_try, whole_model_trials
from optimizer.trial import EngineName, Trial

_WORTH_REPAIRING = 1.05

# How long sensitivities may be measured that explain an engine and decide nothing.
_EXPLAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search found.

    Attributes:
        tried: every trial, in order.
        repairs: what each rung of each ladder did.
        facts: of the layers, by trial family (see `family`).
        is_complete: False where the budget ended it.
    """

    tried: tuple[Tried, ...]
    repairs: tuple[RepairRecord, ...]
    facts: dict[str, tuple[LayerFacts, ...]]
    is_complete: bool


def search(runner: TrialRunner, recipe: Recipe, is_batched: bool, budget: Budget) -> Searched:
    """Try what the recipe allows; the rewritten graph is always tried, whatever the budget."""
    value = value_of(recipe)
    graph = runner.workshop.graph
    for trial in whole_model_trials(graph, recipe, is_batched):
        if budget.is_spent and runner.tried:
            break
        runner.run(trial, "recipe")
    repairs: list[RepairRecord] = []
    facts: dict[str, tuple[LayerFacts, ...]] = {}
    # Where not even the rewritten graph is accepted, no repair of a lowered one can be.
    may_repair = any(one.is_accepted for one in runner.tried)
    for engine in engines_to_try(recipe) if may_repair else ():
        start = _worth_repairing(runner.tried, engine, value, recipe)
        if start is None or budget.is_spent:
            continue
        best, rungs = start, tuple[RepairRecord, ...]()
        if start.trial.precision == "int8" and not start.is_accepted:
            climbed = climb(runner, start, budget)
            best, rungs = climbed.best, climbed.rungs
        repairs += rungs
        if _is_whole_or_nothing(best.trial):
            continue
        found = _facts(runner, best, budget if not best.is_accepted else min(budget, budget_of(_EXPLAIN_SECONDS)))
        facts[family(best.trial)] = found
        if best.is_accepted:
            without_slow_layers(runner, best, found, value, budget)
        else:
            revert_until_accepted(runner, best, found, value, budget)
    return Searched(runner.tried, tuple(repairs), facts, not budget.is_spent)


def _is_whole_or_nothing(trial: Trial) -> bool:
    """OpenVINO's half precisions are one hint for the whole model."""
    return trial.engine == "openvino" and trial.precision in ("fp16", "bf16")


def value_of(recipe: Recipe) -> Value:
    """What the search climbs: speed beside the source, or smallness where that is asked for or all that is known."""
    if recipe.objective in ("size", "memory") or not recipe.is_timed:
        return lambda tried: 1.0 / (tried.record.size_bytes or float("inf"))
    return lambda tried: tried.speed


def family(trial: Trial) -> str:
    """Trials that differ only in which layers they lower."""
    return str(trial.model_copy(update={"layers": {}}))


def _worth_repairing(tried: Sequence[Tried], engine: EngineName, value: Value, recipe: Recipe) -> Tried | None:
    """The best lowered engine, accepted or not, unless an accepted one of any engine is as good already."""
    lowered = [
        one
        for one in tried
        if one.trial.engine == engine
        and one.trial.precision != "fp32"
        and one.record.verdict in ("accepted", "rejected")
    ]
    if not lowered:
        return None
    best = max(lowered, key=value)
    accepted = max((value(one) for one in tried if one.is_accepted and one is not best), default=0.0)
    if recipe.precision != "auto" or best.is_accepted or value(best) > _WORTH_REPAIRING * accepted:
        return best
    return None


def _facts(runner: TrialRunner, tried: Tried, budget: Budget) -> tuple[LayerFacts, ...]:
    float_trial = Trial(engine=tried.trial.engine)
    floats = next((one for one in runner.tried if one.trial == float_trial), None)
    proofs = (floats.proof if floats else None, tried.proof)
    return layer_facts(runner, tried.trial, _lowered_layers(runner, tried.trial), proofs, budget)


def _lowered_layers(runner: TrialRunner, trial: Trial) -> Sequence[str]:
    graph = runner.workshop.graph
    names = [layer.name for layer in layers_of(graph) if trial.precision_of(layer.name) == trial.precision]
    if trial.precision != "int8":
        return names
    plan = plan_int8(graph)
    return [name for name in names if name in getattr(plan, "layers", ())]
