"""Choose what is published: the fastest candidate inside the tolerance, or the source when none is clearly faster.

No regret: a candidate is only taken when the lower 95 % bound of its speed-up over the source is above 1.05, and none
gives up precision for a speed that another has too, within 5 %.
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
        VerifyFailed: see `accepted_candidates`.
    """
    accepted = accepted_candidates(candidates)
    faster = [record for record in accepted if _lower_bound(record) > LEAST_SPEEDUP]
    if not faster:
        return _keep_source(candidates, max(accepted, key=_speedup))
    best, top = _nearest_of_the_fastest(faster), max(faster, key=_speedup)
    return Choice(best.name, _reason(best, top), tuple(_with_verdict(record, best, top) for record in candidates))


def accepted_candidates(candidates: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Those inside the tolerance, without the source.

    Raises:
        VerifyFailed: there is none, so not even the rewritten source may be published.
    """
    accepted = [record for record in candidates if record.verdict == "accepted" and record.name != SOURCE]
    if not accepted:
        tried = "; ".join(f"{record.name}: {record.reason}" for record in candidates if record.name != SOURCE)
        raise VerifyFailed(
            f"no candidate is inside the tolerance, and nothing was published: {tried}. Allow a larger --max-drop."
        )
    return accepted


def _nearest_of_the_fastest(faster: Sequence[CandidateRecord]) -> CandidateRecord:
    """Candidates within 5 % of the fastest are as fast as it; of these, the one nearest to the original wins."""
    top = max(map(_speedup, faster))
    as_fast = [record for record in faster if top <= LEAST_SPEEDUP * _speedup(record)]
    return min(as_fast, key=lambda record: (_distance(record), -_speedup(record)))


def _keep_source(candidates: Sequence[CandidateRecord], nearest: CandidateRecord) -> Choice:
    reason = (
        "nothing inside the tolerance is clearly faster, so the source itself is published; the nearest is "
        f"{nearest.name} with {_speed_text(nearest)}, and the lower bound must be above {LEAST_SPEEDUP}"
    )
    return Choice(SOURCE, reason, tuple(_with_verdict(record, None, None) for record in candidates))


def _reason(best: CandidateRecord, top: CandidateRecord) -> str:
    speed = f"{_speed_text(best)} the source's speed"
    if best is top:
        return f"the fastest inside the tolerance, {speed}"
    return f"{speed}: within 5 % of {top.name} ({_speedup(top):.2f}x), and nearer to the original"


def _with_verdict(
    record: CandidateRecord, best: CandidateRecord | None, top: CandidateRecord | None
) -> CandidateRecord:
    if record is best:
        title = "fastest" if best is top else "as fast, and nearest"
        return record.model_copy(update={"verdict": "chosen", "reason": f"{title}: {_speed_text(record)}"})
    if record.name == SOURCE and best is None:
        return record.model_copy(update={"verdict": "chosen", "reason": "the original: nothing is clearly faster"})
    if record.name == SOURCE or record.verdict != "accepted":
        return record
    return record.model_copy(update={"reason": f"{_why_not(record, best)}: {_speed_text(record)}"})


def _why_not(record: CandidateRecord, best: CandidateRecord | None) -> str:
    if best is None or _lower_bound(record) <= LEAST_SPEEDUP:
        return "not clearly faster"
    if _speedup(record) * LEAST_SPEEDUP < _speedup(best):
        return f"{best.name} is faster"
    return f"{best.name} is as fast, and nearer"


def _speed_text(record: CandidateRecord) -> str:
    return f"{_speedup(record):.2f}x (≥ {_lower_bound(record):.2f}x)"


def _speedup(record: CandidateRecord) -> float:
    return record.speedup.median if record.speedup else 0.0


def _lower_bound(record: CandidateRecord) -> float:
    return record.speedup.lower_95 if record.speedup else 0.0


def _distance(record: CandidateRecord) -> float:
    return float("inf") if record.mean_abs_difference is None else record.mean_abs_difference
