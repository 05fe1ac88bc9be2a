"""Which layers go back to float: accuracy is bought where it costs least time, and given back where it was not needed.

Layers are ordered by the error each causes per millisecond it saves. The shortest beginning of that order whose
reversal is accepted is found by doubling and bisection; then layers are lowered again one by one, those that save most
first, as long as the verdict stays. What is returned is the best that was seen, not the last.
"""

from collections.abc import Callable, Sequence

from optimizer.search.budget import Budget
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.tried import RunsTrials, Tried
from optimizer.trial import Precision, Trial

_MOST_REQUANTIZED = 12
_CLEARLY_FASTER = 1.02
Value = Callable[[Tried], float]


def revert_until_accepted(
    runner: RunsTrials, start: Tried, facts: Sequence[LayerFacts], value: Value, budget: Budget
) -> Tried:
    """Give up as few layers as the tolerance needs; `start` itself where nothing is accepted."""
    order = [fact.layer.name for fact in sorted(facts, key=lambda fact: -fact.price)]
    accepted = _shortest_beginning(runner, start.trial, order, budget)
    if accepted is None:
        return start
    return _requantized(runner, accepted, facts, value, budget)


def without_slow_layers(
    runner: RunsTrials, start: Tried, facts: Sequence[LayerFacts], value: Value, budget: Budget
) -> Tried:
    """Revert the layers that got slower by being lowered, if that makes the whole clearly better."""
    slow = [fact.layer.name for fact in facts if fact.saved_ms is not None and fact.saved_ms < 0]
    if not slow or len(slow) == len(facts) or budget.is_spent:
        return start
    found = runner.run(_reverted(start.trial, slow), "layers")
    return found if found.is_accepted and value(found) > _CLEARLY_FASTER * value(start) else start


def _shortest_beginning(runner: RunsTrials, trial: Trial, order: Sequence[str], budget: Budget) -> Tried | None:
    """Double until accepted, then bisect between the last two."""
    most = len(order) - 1  # with all of them back in float nothing would be lowered
    refused, count, found = 0, 1, None
    while most > 0 and not budget.is_spent:
        count = min(count, most)
        found = runner.run(_reverted(trial, order[:count]), "layers")
        if found.is_accepted or count == most:
            break
        refused, count = count, 2 * count
    if found is None or not found.is_accepted:
        return None
    best, enough = found, count
    while enough - refused > 1 and not budget.is_spent:
        middle = (refused + enough) // 2
        found = runner.run(_reverted(trial, order[:middle]), "layers")
        if found.is_accepted:
            best, enough = found, middle
        else:
            refused = middle
    return best


def _requantized(runner: RunsTrials, start: Tried, facts: Sequence[LayerFacts], value: Value, budget: Budget) -> Tried:
    best = start
    reverted = [fact for fact in facts if fact.layer.name in start.trial.layers]
    by_saving = sorted(reverted, key=lambda fact: (-(fact.saved_ms or 0.0), fact.sensitivity or 0.0))
    for fact in by_saving[:_MOST_REQUANTIZED] if len(reverted) > 1 else ():
        if budget.is_spent:
            break
        layers = {name: kept for name, kept in best.trial.layers.items() if name != fact.layer.name}
        found = runner.run(best.trial.model_copy(update={"layers": layers}), "requantize")
        if found.is_accepted and value(found) >= value(best):
            best = found
    return best


def _reverted(trial: Trial, names: Sequence[str]) -> Trial:
    kept: Precision = "fp32"
    return trial.model_copy(update={"layers": {**trial.layers, **dict.fromkeys(sorted(names), kept)}})
