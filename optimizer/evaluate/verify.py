"""When a candidate is right enough: the verdict on what its answers showed, row by row, beside the ORIGINAL model's.

The rule: a candidate is accepted when

    its drop on the rows is at most max-drop, and
    it is not the case that it is significantly worse than the original (5 %) while the upper 95 % bound of its drop
    exceeds max-drop, and
    a row alone gives what it gives among others, and
    if its precision is lower than the original's, at least `LEAST_ROWS` rows were there to tell.

Without data there is nothing to score: then the outputs for synthetic rows must equal the original's up to rounding.
"""

from dataclasses import dataclass, field

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import VerifyFailed
from enginehouse.evidence import MetricRecord, WorstSample
from enginehouse.tensor import Tensors
from optimizer.evaluate.batch_invariance import Invariance, check_batch_invariance
from optimizer.evaluate.comparison import Comparison
from optimizer.evaluate.distance import OutputDistance
from optimizer.evaluate.metrics import Metric, score_text
from optimizer.evaluate.statistics import PairedDrop
from optimizer.evaluate.tolerance import Tolerance

# Without a metric: the largest difference, as a share of the original's largest output.
SYNTHETIC_TOLERANCE = 1e-3

# With fewer, a lower precision that harms one row in ten would often go unseen: 0.9 ** 30 is 4 %.
LEAST_ROWS = 30
_ROUNDING = 1e-12
_LOWERED = ("fp16", "bf16", "int8", "int8_dynamic", "int4")


@dataclass(frozen=True, slots=True)
class Judge:
    """What candidates are judged by.

    Attributes:
        metric: None where there is no data to score.
        tolerance: the drop that is accepted.
        is_batched: the server may put rows of strangers together.
        seed: of the resampling.
        allows_batch_variance: a row may change with its company; how much is still measured.
    """

    metric: Metric | None
    tolerance: Tolerance
    is_batched: bool
    seed: int
    allows_batch_variance: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """What comparing one candidate with the original showed.

    Attributes:
        worst: the row that it answers least like the original; None where all answers are equal, or text.
        output_difference: the largest absolute difference of each output.
    """

    is_accepted: bool
    reason: str
    metric: MetricRecord | None
    distance: OutputDistance
    invariance: Invariance | None
    has_failed: bool = False
    worst: WorstSample | None = None
    output_difference: dict[str, float] = field(default_factory=dict)


def failed(reason: str) -> Verification:
    """A candidate that could not be run at all."""
    return Verification(False, reason, None, OutputDistance(), None, has_failed=True)


def verdict(
    comparison: Comparison, engine: Engine, precision: str, source_scores: Array, first: Tensors, judge: Judge
) -> Verification:
    """Apply the rule.

    Args:
        comparison: over all rows, or up to the batch that was not comparable.
        engine: the candidate, to run rows alone.
        precision: what it computes in.
        source_scores: the original's, where the judge has a metric.
        first: a few rows.
        judge: metric and tolerance.

    Raises:
        EngineFailed: the candidate cannot run a single row.
    """
    if not comparison.is_comparable:
        reason = "outputs have another shape than the original's, or are not finite where its are"
        return Verification(False, reason, None, comparison.distance, None)
    if not all(map(are_numbers, comparison.scores)):
        return Verification(False, "its score is not a number on some rows", None, comparison.distance, None)
    invariance = check_batch_invariance(engine, first, precision) if judge.is_batched else None
    record = _metric_record(comparison, source_scores, judge)
    problem = (
        _distance_problem(comparison.distance, judge.tolerance)
        if record is None
        else _drop_problem(record, judge) or _too_few_rows(record, precision)
    )
    problem = problem or _company_problem(invariance, judge)
    return Verification(
        is_accepted=not problem,
        reason=problem,
        metric=record,
        distance=comparison.distance,
        invariance=invariance,
        worst=comparison.worst.sample,
        output_difference=dict(comparison.distance.by_output),
    )


def drop_exceeds(record: MetricRecord, limit: float) -> bool:
    """Tell whether a drop is more than a limit allows: by itself, or significant and possibly so."""
    drop = PairedDrop(record.drop, record.drop_upper_95, record.p_value)
    return not record.drop <= limit + _ROUNDING or (drop.is_significant and drop.upper_95 > limit)


def are_numbers(scores: Array) -> bool:
    """Tell whether no score is NaN or infinite."""
    return scores.dtype.kind != "f" or bool(np.isfinite(scores).all())


def refuse_no_numbers(metric: Metric, scores: Array) -> None:
    """Raise `VerifyFailed` where the original's own score is NaN or infinite."""
    if not are_numbers(scores):
        raise VerifyFailed(
            f"the original's {metric.name} is not a number on some validation rows, so nothing can be compared "
            "with it. Look for rows that it answers with NaN."
        )


def refuse_mixed_rows(invariance: Invariance) -> None:
    """Raise `VerifyFailed` where the original itself answers a row differently in company."""
    if not invariance.holds:
        raise VerifyFailed(
            f"the model answers a row differently when other rows are with it (by {invariance.difference:.2g}), so its "
            "requests cannot be batched. Build it with --max-batch-size 1."
        )


def _metric_record(comparison: Comparison, source: Array, judge: Judge) -> MetricRecord | None:
    metric = judge.metric
    if metric is None:
        return None
    candidate = np.concatenate(comparison.scores)
    drop = metric.drop(source, candidate, judge.seed)
    return MetricRecord(
        name=metric.name,
        rows=len(source),
        source=metric.total(source),
        candidate=metric.total(candidate),
        drop=drop.point,
        drop_upper_95=drop.upper_95,
        p_value=drop.p_value,
    )


def _drop_problem(record: MetricRecord, judge: Judge) -> str:
    """Say what the tolerance does not allow; empty if it allows everything."""
    assert judge.metric is not None
    limit = judge.tolerance.limit(record.source, judge.metric.is_share)
    if not drop_exceeds(record, limit):
        return ""
    if not record.drop <= limit + _ROUNDING:
        return f"{record.name} drops by {score_text(record.name, record.drop)}, {judge.tolerance} is allowed"
    upper = score_text(record.name, record.drop_upper_95)
    return (
        f"{record.name} is significantly worse (p {record.p_value:.2g}) and may drop by {upper}; "
        f"{judge.tolerance} is allowed"
    )


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


def _company_problem(invariance: Invariance | None, judge: Judge) -> str:
    if invariance is None or invariance.holds or judge.allows_batch_variance:
        return ""
    return f"a row alone differs from the row among others by {invariance.difference:.2g}"
