"""Choose what is published: the fastest candidate inside the tolerance, or the source when none is clearly faster.

No regret: a candidate is only taken when the lower 95 % bound of its speed-up over the source is above 1.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.errors import VerifyFailed
from enginehouse.evidence import CandidateRecord

SOURCE = "source"
LEAST_SPEEDUP = 1.05


@dataclass(frozen=True, slots=True)
class Choice:
    """What is published and why, with the verdict on every candidate."""

    chosen: str
    reason: str
    candidates: tuple[CandidateRecord, ...]


def choose(candidates: Sequence[CandidateRecord]) -> Choice:
    """Pick from candidates that are verified and measured; one of them is the source.

    Raises:
        VerifyFailed: none but the source is inside the tolerance, so there is not even a fallback to publish.
    """
    accepted = [record for record in candidates if record.verdict == "accepted" and record.name != SOURCE]
    if not accepted:
        tried = "; ".join(f"{record.name}: {record.reason}" for record in candidates if record.name != SOURCE)
        raise VerifyFailed(
            f"no candidate is inside the tolerance, and nothing was published: {tried}. Allow a larger drop."
        )
    faster = [record for record in accepted if _lower_bound(record) > LEAST_SPEEDUP]
    best = max(faster, key=_speedup, default=None)
    chosen = best.name if best else SOURCE
    return Choice(chosen, _reason(best, accepted), tuple(_with_verdict(record, chosen) for record in candidates))


def _reason(best: CandidateRecord | None, accepted: Sequence[CandidateRecord]) -> str:
    if best is not None:
        return f"{best.name} is the fastest inside the tolerance: {_speed_text(best)}"
    nearest = max(accepted, key=_speedup)
    return (
        f"nothing inside the tolerance is clearly faster, so the source itself is published "
        f"(nearest: {nearest.name}, {_speed_text(nearest)}; above {LEAST_SPEEDUP} is asked for)"
    )


def _with_verdict(record: CandidateRecord, chosen: str) -> CandidateRecord:
    if record.name == chosen:
        reason = "the original; nothing is clearly faster" if chosen == SOURCE else _speed_text(record)
        return record.model_copy(update={"verdict": "chosen", "reason": reason})
    if record.name == SOURCE or record.verdict != "accepted":
        return record
    if _lower_bound(record) > LEAST_SPEEDUP:
        return record.model_copy(update={"reason": f"{_speed_text(record)}, but {chosen} is faster"})
    return record.model_copy(update={"reason": f"{_speed_text(record)}: not clearly faster"})


def _speed_text(record: CandidateRecord) -> str:
    return f"{_speedup(record):.2f}x the source's speed (at least {_lower_bound(record):.2f}x)"


def _speedup(record: CandidateRecord) -> float:
    return record.speedup.median if record.speedup else 0.0


def _lower_bound(record: CandidateRecord) -> float:
    return record.speedup.lower_95 if record.speedup else 0.0
