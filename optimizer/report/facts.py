"""What the evidence says between its lines: times at the batch that matters, the front, the price of tolerance."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, log

from enginehouse.evidence import CandidateRecord, Evidence, LatencyPoint
from optimizer.evaluate.metrics import SHARES
from optimizer.evaluate.tolerance import Tolerance, tolerance_from_text
from optimizer.evaluate.verify import drop_exceeds
from optimizer.search.tried import SOURCE

_MATTERING_BATCHES = (1, 8)

# The steps of tolerance whose price is shown: shares of a share, or of the original's error.
STEPS = (0.001, 0.005, 0.01)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a wider tolerance would buy: the fastest candidate inside it."""

    step: float
    candidate: CandidateRecord
    gain: float


def source_record(evidence: Evidence) -> CandidateRecord | None:
    return next((record for record in evidence.candidates if record.name == SOURCE), None)


def chosen_record(evidence: Evidence) -> CandidateRecord | None:
    return next((record for record in evidence.candidates if record.name == evidence.chosen), None)


def point_at(latency: Sequence[LatencyPoint], batch: int) -> LatencyPoint | None:
    return next((point for point in latency if point.batch == batch), None)


def mattering_batches(evidence: Evidence) -> tuple[int, ...]:
    """The batch sizes that single figures are about: the serving batch, or one row and eight."""
    measured = _measured_batches(evidence)
    wanted = (evidence.serving_batch,) if evidence.serving_batch else _MATTERING_BATCHES
    return tuple(batch for batch in measured if batch in wanted) or measured[:1]


def judged_batches(evidence: Evidence) -> tuple[int, ...]:
    """The batch sizes that latency is chosen by: the serving batch, or all that were measured."""
    return mattering_batches(evidence) if evidence.serving_batch else _measured_batches(evidence)


def milliseconds(evidence: Evidence, record: CandidateRecord) -> float | None:
    """Time of a run: the geometric mean over the batches that latency is chosen by.

    For a candidate that did not reach the final benchmark it is the source's, divided by how much faster it was
    beside the source in the search.
    """
    own = _curve_mean(record.latency, judged_batches(evidence))
    if own is not None:
        return own
    source = source_record(evidence)
    reference = _curve_mean(source.latency, judged_batches(evidence)) if source else None
    return reference / record.quick_speedup if reference and record.quick_speedup else None


def loss(record: CandidateRecord) -> float | None:
    """The drop of the metric; without a metric the largest difference; the source loses nothing."""
    if record.name == SOURCE:
        return 0.0
    return record.metric.drop if record.metric else record.max_abs_difference


def tolerance(evidence: Evidence) -> Tolerance | None:
    text = evidence.recipe.get("max_drop")
    return tolerance_from_text(text) if isinstance(text, str) else None


def drop_limit(evidence: Evidence) -> float | None:
    """The largest drop that is accepted, in units of the metric; None without a metric."""
    metric, allowed = metric_name(evidence), tolerance(evidence)
    score = source_score(evidence)
    return allowed.limit(score, metric in SHARES) if metric and allowed and score is not None else None


def metric_name(evidence: Evidence) -> str | None:
    return next((record.metric.name for record in evidence.candidates if record.metric), None)


def source_score(evidence: Evidence) -> float | None:
    return next((record.metric.source for record in evidence.candidates if record.metric), None)


def offers(evidence: Evidence) -> list[Offer]:
    """What each step of wider tolerance would buy; a step that buys no more than the one before it is left out."""
    limit, score, chosen = drop_limit(evidence), source_score(evidence), chosen_record(evidence)
    now = milliseconds(evidence, chosen) if chosen else None
    if limit is None or score is None or now is None:
        return []
    scale = 1.0 if metric_name(evidence) in SHARES else abs(score)
    found: list[Offer] = []
    fastest = now
    for step in STEPS:
        for time, candidate in _bought(evidence, limit, limit + step * scale):
            if time < fastest:
                fastest = time
                found.append(Offer(step, candidate, now / time))
    return found


def _bought(evidence: Evidence, limit: float, wider: float) -> list[tuple[float, CandidateRecord]]:
    """The fastest of the candidates that only the wider limit accepts, with its time; none or one."""
    inside = [
        (time, record)
        for record in evidence.candidates
        if record.verdict == "rejected" and record.metric is not None and record.batch_invariant is not False
        if drop_exceeds(record.metric, limit) and not drop_exceeds(record.metric, wider)
        if (time := milliseconds(evidence, record)) is not None
    ]
    return sorted(inside, key=lambda found: found[0])[:1]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points of time and loss those that no other beats in both, fastest first."""
    front: list[tuple[float, float]] = []
    for time, lost in sorted(points):
        if not front or lost < front[-1][1]:
            front.append((time, lost))
    return front


def _measured_batches(evidence: Evidence) -> tuple[int, ...]:
    source = source_record(evidence)
    return tuple(point.batch for point in source.latency) if source else ()


def _curve_mean(latency: Sequence[LatencyPoint], batches: Sequence[int]) -> float | None:
    points = [point for batch in batches if (point := point_at(latency, batch)) is not None]
    return exp(fsum(log(point.median_ms) for point in points) / len(points)) if points else None
