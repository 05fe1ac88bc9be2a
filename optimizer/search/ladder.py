"""Repair before surrender: rungs that cost little or no speed, climbed only as far as the tolerance needs.

A rung that does not lower the drop is left out of the next ones.
"""

from dataclasses import dataclass

from enginehouse.evidence import RepairRecord
from optimizer.search.budget import Budget
from optimizer.search.tried import RunsTrials, Tried
from optimizer.trial import RepairName, Trial

# Cheapest first.
_CALIBRATOR_RUNG = "per_tensor calibrators"
_REPAIR_RUNGS: tuple[RepairName, ...] = ("equalization", "smooth_quant", "bias_correction", "adaptive_rounding")


@dataclass(frozen=True, slots=True)
class Climb:
    """The best trial on the ladder, which may be where it began, and what each rung did."""

    best: Tried
    rungs: tuple[RepairRecord, ...]


def climb(runner: RunsTrials, start: Tried, budget: Budget) -> Climb:
    """Add one rung after another to a static INT8 trial until one is accepted, or the ladder or the budget ends."""
    best, rungs = start, []
    for name, trial_after in _rungs():
        if best.is_accepted or budget.is_spent:
            break
        found = runner.run(trial_after(best.trial), "repair")
        rungs.append(_record(name, best, found))
        if found.is_accepted or is_better(found, best):
            best = found
    return Climb(best, tuple(rungs))


def is_better(found: Tried, best: Tried) -> bool:
    """Loses less of the metric; where that is equal, its outputs are nearer."""
    if found.record.verdict not in ("accepted", "rejected"):
        return False
    return (found.drop, _distance(found)) < (best.drop, _distance(best))


@dataclass(frozen=True, slots=True)
class _Rung:
    """What a rung changes of a trial; None stands for the choice of calibrators."""

    repair: RepairName | None

    def __call__(self, trial: Trial) -> Trial:
        if self.repair is None:
            return trial.model_copy(update={"calibrator": "per_tensor"})
        return trial.model_copy(update={"repairs": (*trial.repairs, self.repair)})


def _rungs() -> list[tuple[str, _Rung]]:
    return [(_CALIBRATOR_RUNG, _Rung(None)), *((name, _Rung(name)) for name in _REPAIR_RUNGS)]


def _record(name: str, before: Tried, after: Tried) -> RepairRecord:
    if after.record.verdict not in ("accepted", "rejected"):
        return RepairRecord(name=name, drop_before=before.drop, drop_after=None, detail=after.record.reason)
    return RepairRecord(name=name, drop_before=before.drop, drop_after=after.drop, detail=after.repairs.get(name, ""))


def _distance(tried: Tried) -> float:
    found = tried.record.mean_abs_difference
    return float("inf") if found is None else found
