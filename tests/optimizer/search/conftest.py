"""A runner that knows by rule what becomes of each trial, so that the search can be watched without any engine."""

from collections.abc import Callable

import pytest

from enginehouse.evidence import CandidateRecord, MetricRecord
from optimizer.search.tried import Tried
from optimizer.trial import Trial

# What a trial loses, and its speed beside the source; None for one that is declined.
Rule = Callable[[Trial], tuple[float, float] | None]
ALLOWED = 0.01


class RuledRunner:
    """Accepts what loses at most `ALLOWED`, and keeps every trial in order."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.tried: list[Tried] = []
        self.stages: list[str] = []

    def run(self, trial: Trial, stage: str) -> Tried:
        found = next((one for one in self.tried if one.trial == trial), None)
        if found is None:
            found = self._tried(trial, stage)
            self.tried.append(found)
            self.stages.append(stage)
        return found

    def _tried(self, trial: Trial, stage: str) -> Tried:
        outcome = self._rule(trial)
        base = CandidateRecord(
            name=f"{trial} #{len(self.tried)}",
            precision=trial.precision,
            stage=stage,
            verdict="declined",
            reason="does not apply",
        )
        if outcome is None:
            return Tried(trial=trial, record=base)
        drop, speed = outcome
        metric = MetricRecord(
            name="top1", rows=100, source=1.0, candidate=1 - drop, drop=drop, drop_upper_95=drop, p_value=0.5
        )
        verdict = "accepted" if drop <= ALLOWED else "rejected"
        facts = {"metric": metric, "verdict": verdict, "quick_speedup": speed, "mean_abs_difference": drop}
        return Tried(trial=trial, record=base.model_copy(update=facts))


@pytest.fixture
def ruled_runner() -> Callable[[Rule], RuledRunner]:
    return RuledRunner
