"""Every candidate against the ORIGINAL model, row by row on the validation split, in one stream.

The rule: a candidate is accepted when

    its drop on the rows is at most max-drop, and
    it is not the case that it is significantly worse than the original (5 %) while the upper 95 % bound of its drop
    exceeds max-drop, and
    a row alone gives what it gives among others, and
    if its precision is lower than the original's, at least `LEAST_ROWS` rows were there to tell.

Without data there is nothing to score: then the outputs for synthetic rows must equal the original's up to rounding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed, VerifyFailed
from enginehouse.evidence import MetricRecord
from enginehouse.tensor import Tensors
from optimizer.data.feeds import Batch
from optimizer.evaluate.batch_invariance import Invariance, check_batch_invariance
from optimizer.evaluate.distance import OutputDistance
from optimizer.evaluate.metrics import Metric, score_text
from optimizer.evaluate.statistics import PairedDrop, drop_of_hits, drop_of_scores
from optimizer.evaluate.tolerance import Tolerance

# Without a metric: the largest difference, as a share of the original's largest output.
SYNTHETIC_TOLERANCE = 1e-3
INVARIANCE_ROWS = 32

# With fewer, a lower precision that harms one row in ten would often go unseen: 0.9 ** 30 is 4 %.
LEAST_ROWS = 30
_LOWERED = ("int8",)


@dataclass(frozen=True, slots=True)
class Judge:
    """What candidates are judged by; `is_batched` where the server may put rows of strangers together."""

    metric: Metric | None
    tolerance: Tolerance
    is_batched: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What comparing one candidate with the original showed."""

    is_accepted: bool
    reason: str
    metric: MetricRecord | None
    distance: OutputDistance
    invariance: Invariance | None
    has_failed: bool = False


def failed(reason: str) -> Verification:
    """A candidate that could not be run at all."""
    return Verification(False, reason, None, OutputDistance(), None, has_failed=True)


class _Comparison:
    """One candidate while the batches pass; an engine that fails is asked no more."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.distance = OutputDistance()
        self.scores: list[Array] = []
        self.failure = ""

    def add(self, batch: Batch, source: Tensors, metric: Metric | None) -> None:
        if self.failure:
            return
        try:
            outputs = self.engine.run(batch.feeds)
        except EngineFailed as problem:
            self.failure = str(problem)
            return
        self.distance.update(source, outputs)
        if metric is not None:
            self.scores.append(metric.scores(outputs, source, batch))


def verify(
    source: Engine, candidates: Mapping[str, tuple[Engine, str]], batches: Iterable[Batch], judge: Judge
) -> dict[str, Verification]:
    """Run the original and every candidate on each batch once.

    Args:
        source: the original model.
        candidates: engine and precision, by name.
        batches: the validation split, or synthetic rows where the judge has no metric.
        judge: metric, tolerance and seed.

    Raises:
        VerifyFailed: the original itself mixes the rows of a batch, or gives no numbers to compare with.
    """
    comparisons = {name: _Comparison(engine) for name, (engine, _) in candidates.items()}
    source_scores: list[Array] = []
    first: Tensors | None = None
    for batch in batches:
        outputs = source.run(batch.feeds)
        first = batch.feeds if first is None else first
        if judge.metric is not None:
            source_scores.append(judge.metric.scores(outputs, outputs, batch))
        for comparison in comparisons.values():
            comparison.add(batch, outputs, judge.metric)
    assert first is not None
    if judge.is_batched:
        _refuse_mixed_rows(_invariance(source, "", first))
    return {
        name: _verdict(comparison, candidates[name][1], source_scores, first, judge)
        for name, comparison in comparisons.items()
    }


def _verdict(
    comparison: _Comparison, precision: str, source_scores: list[Array], first: Tensors, judge: Judge
) -> Verification:
    if comparison.failure:
        return failed(comparison.failure)
    if not np.isfinite(comparison.distance.largest):
        reason = "outputs have another shape than the original's, or are not finite where its are"
        return Verification(False, reason, None, comparison.distance, None)
    invariance = _invariance(comparison.engine, precision, first) if judge.is_batched else None
    record = None
    if judge.metric is not None:
        record = _metric_record(judge, np.concatenate(source_scores), np.concatenate(comparison.scores))
        problem = _drop_problem(record, judge) or _too_few_rows(record, precision)
    else:
        problem = _distance_problem(comparison.distance, judge.tolerance)
    if not problem and invariance is not None and not invariance.holds:
        problem = f"a row alone differs from the row among others by {invariance.difference:.2g}"
    return Verification(not problem, problem, record, comparison.distance, invariance)


def _invariance(engine: Engine, precision: str, feeds: Tensors) -> Invariance:
    return check_batch_invariance(engine, {name: array[:INVARIANCE_ROWS] for name, array in feeds.items()}, precision)


def _refuse_mixed_rows(invariance: Invariance) -> None:
    if not invariance.holds:
        raise VerifyFailed(
            f"the model answers a row differently when other rows are with it (by {invariance.difference:.2g}), so its "
            "requests cannot be batched. Build it with --max-batch-size 1."
        )


def _metric_record(judge: Judge, source: Array, candidate: Array) -> MetricRecord:
    assert judge.metric is not None
    drops = judge.metric.drop_per_row(source, candidate)
    if not np.isfinite(drops).all():
        raise VerifyFailed(
            f"the original's {judge.metric.name} is not a number on some validation rows, so nothing can be compared "
            "with it. Look for rows that it answers with NaN."
        )
    drop = _paired_drop(drops, judge.metric.is_binary, judge.seed)
    return MetricRecord(
        name=judge.metric.name,
        rows=len(drops),
        source=float(source.mean()),
        candidate=float(candidate.mean()),
        drop=drop.point,
        drop_upper_95=drop.upper_95,
        p_value=drop.p_value,
    )


def _paired_drop(drops: Array, is_binary: bool, seed: int) -> PairedDrop:
    if is_binary:
        return drop_of_hits(int((drops > 0).sum()), int((drops < 0).sum()), len(drops))
    return drop_of_scores(drops, seed)


def _drop_problem(record: MetricRecord, judge: Judge) -> str:
    """Say what the tolerance does not allow; empty if it allows everything."""
    assert judge.metric is not None
    limit = judge.tolerance.limit(record.source, judge.metric.higher_is_better)
    if not record.drop <= limit + 1e-12:
        return f"{record.name} drops by {score_text(record.name, record.drop)}, {judge.tolerance} is allowed"
    drop = PairedDrop(record.drop, record.drop_upper_95, record.p_value)
    if drop.is_significant and drop.upper_95 > limit:
        upper = score_text(record.name, drop.upper_95)
        return (
            f"{record.name} is significantly worse (p {drop.p_value:.2g}) and may drop by {upper}; "
            f"{judge.tolerance} is allowed"
        )
    return ""


def _too_few_rows(record: MetricRecord, precision: str) -> str:
    if precision not in _LOWERED or record.rows >= LEAST_ROWS:
        return ""
    return f"{record.rows} validation rows cannot judge a lower precision; {LEAST_ROWS} or more are needed"


def _distance_problem(distance: OutputDistance, tolerance: Tolerance) -> str:
    if tolerance.value < 0:
        return f"a drop of {tolerance} is asked for, and nothing is better than the original on rows without labels"
    allowed = SYNTHETIC_TOLERANCE * distance.scale
    if distance.largest <= allowed:
        return ""
    return f"outputs differ by up to {distance.largest:.3g}, {allowed:.3g} is allowed without data"
