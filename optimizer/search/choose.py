"""Choose what is published: the best finalist inside the tolerance, or the source when none is clearly better.

No regret: an engine is only taken when the lower 95 % bound of its speed-up over the source is above 1.05 (for the
objectives size and memory: when it is clearly smaller), and none gives up nearness to the original for a gain that
another has too, within 5 %. Another engine than ONNX Runtime must win by more than 10 %, because it is one more thing
to install.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.errors import VerifyFailed
from enginehouse.evidence import CandidateRecord
from optimizer.recipe import Objective
from optimizer.search.tried import SOURCE

LEAST_GAIN = 1.05
OTHER_ENGINE_GAIN = 1.10
_FORCED = {"int8": ("int8", "int8_dynamic")}
PORTABLE = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Rule:
    """What the choice goes by.

    Attributes:
        objective: what is maximized.
        precision: `auto`, or the one that was asked for.
        engine: `auto`, or the one that was asked for.
        is_timed: False for a target that is not this machine: then the smallest engine counts as the fastest.
        serving_batch: the only batch size that matters; None where all do.
    """

    objective: Objective
    precision: str
    engine: str
    is_timed: bool
    serving_batch: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is published and why, with the verdict on every candidate.

    Attributes:
        chosen: the best engine of all.
        portable: the best that ONNX Runtime runs, which becomes `model.onnx`.
    """

    chosen: str
    portable: str
    reason: str
    candidates: tuple[CandidateRecord, ...]


def choose(candidates: Sequence[CandidateRecord], rule: Rule) -> Choice:
    """Pick from candidates of which the finalists were measured; one of them is the source.

    Raises:
        VerifyFailed: see `accepted_candidates`; or what was asked for is not better than the source.
    """
    judge = _Judge(candidates, rule)
    accepted = [record for record in accepted_candidates(candidates) if judge.is_wanted(record)]
    better = [record for record in accepted if judge.is_clearly_better(record)]
    if not better:
        if judge.is_by_name:
            raise VerifyFailed(judge.why_nothing(accepted))
        return _keep_source(candidates, accepted, judge)
    portable = _nearest_of_the_best([record for record in better if record.engine == PORTABLE], judge)
    others = [record for record in better if record.engine != PORTABLE]
    best = _nearest_of_the_best(others, judge)
    if best is None or (portable is not None and judge.gain(best) <= OTHER_ENGINE_GAIN * judge.gain(portable)):
        best = portable
    assert best is not None
    top = max((record for record in better if record.engine == best.engine or not judge.is_by_name), key=judge.gain)
    verdicts = tuple(_with_verdict(record, best, top, judge) for record in candidates)
    return Choice(best.name, portable.name if portable else SOURCE, judge.reason(best, top), verdicts)


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


class _Judge:
    """Compares records by the rule's objective."""

    def __init__(self, candidates: Sequence[CandidateRecord], rule: Rule) -> None:
        self._source = next(record for record in candidates if record.name == SOURCE)
        self._candidates = candidates
        self._rule = rule

    def is_wanted(self, record: CandidateRecord) -> bool:
        """Whether it is a finalist of the precision and engine that were asked for."""
        return self.is_asked_for(record) and (not self._is_by_speed or record.speedup is not None)

    def is_asked_for(self, record: CandidateRecord) -> bool:
        """By precision and engine; the graph as it was is what `fp32` means, whatever float its source has."""
        wanted = _FORCED.get(self._rule.precision, (self._rule.precision,))
        precision = record.trial.get("precision", record.precision)
        is_precision = self._rule.precision == "auto" or precision in wanted
        return is_precision and self._rule.engine in ("auto", record.engine)

    def is_clearly_better(self, record: CandidateRecord) -> bool:
        """Clearly better than the source, slower at no batch size; what was asked for need only not be worse."""
        if self.slower_at(record):
            return False
        if self.is_by_name and self._is_by_speed:
            return self.gain(record) >= 1 / LEAST_GAIN
        return self.bound(record) > LEAST_GAIN

    def slower_at(self, record: CandidateRecord) -> tuple[int, ...]:
        """The batch sizes that matter at which it is slower than the source, by more than noise."""
        if not self._is_by_speed or self._rule.objective == "throughput":
            return ()
        batches = (self._rule.serving_batch,) if self._rule.serving_batch else [one.batch for one in record.latency]
        points = (point for point in record.latency if point.batch in batches)
        return tuple(point.batch for point in points if point.median_ms > LEAST_GAIN * point.source_median_ms)

    def gain(self, record: CandidateRecord) -> float:
        if self._is_by_speed:
            return record.speedup.median if record.speedup else 0.0
        if self._rule.objective == "memory":
            return _ratio(self._source.memory_bytes, record.memory_bytes)
        return _ratio(self._source.size_bytes, record.size_bytes)

    def bound(self, record: CandidateRecord) -> float:
        return (record.speedup.lower_95 if record.speedup else 0.0) if self._is_by_speed else self.gain(record)

    def text(self, record: CandidateRecord) -> str:
        gain = self.gain(record)
        if not self._is_by_speed:
            return f"{gain:.2f}x smaller" if gain >= 1 else f"{1 / gain:.2f}x larger" if gain else "of unknown size"
        return f"{self.gain(record):.2f}x (≥ {self.bound(record):.2f}x)"

    def reason(self, best: CandidateRecord, top: CandidateRecord) -> str:
        gain = self.text(best) if not self._is_by_speed else f"{self.text(best)} the source's speed"
        if not self._rule.is_timed:
            gain += ", not measured on the target"
        if best is top:
            return f"the {self._best_word} inside the tolerance, {gain}"
        if best.engine == top.engine:
            return f"{gain}: within 5 % of {top.name} ({self.gain(top):.2f}x), and nearer to the original"
        return f"{gain}: {top.name} ({self.gain(top):.2f}x) is not ahead by the 10 % that another engine must be"

    def why_nothing(self, accepted: Sequence[CandidateRecord]) -> str:
        """Say why what was asked for by name cannot be had."""
        asked = " ".join(word for word in (self._rule.engine, self._rule.precision) if word != "auto")
        if accepted:
            best = max(accepted, key=self.gain)
            found = f"{best.name}: {self.why_not(best)}"
        else:
            tried = [record for record in self._candidates if record.name != SOURCE and self.is_asked_for(record)]
            found = (
                "; ".join(f"{record.name}: {record.reason}" for record in tried[:3]) or "no such engine can be tried"
            )
        return f"{asked} was asked for and cannot be published: {found}. Leave the choice to --precision auto."

    @property
    def is_by_name(self) -> bool:
        return self._rule.precision != "auto" or self._rule.engine not in ("auto", PORTABLE)

    @property
    def _is_by_speed(self) -> bool:
        return self._rule.is_timed and self._rule.objective in ("latency", "throughput")

    @property
    def _best_word(self) -> str:
        return "fastest" if self._is_by_speed else "smallest"

    def why_not(self, record: CandidateRecord) -> str:
        """Say what an accepted candidate lacks beside the source."""
        if record.speedup is None and self._is_by_speed:
            return f"no finalist: {record.quick_speedup or 0:.2f}x in the search"
        if slower := self.slower_at(record):
            return f"slower than the source at batch {slower[0]}: {self.text(record)}"
        return f"not clearly better: {self.text(record)}"

    def verdict(self, record: CandidateRecord, best: CandidateRecord) -> str:
        """Say why an accepted candidate is not the one that was chosen."""
        if self.is_by_name and not self.is_asked_for(record):
            return f"another engine was asked for: {self.text(record)}"
        if not self.is_wanted(record) or not self.is_clearly_better(record):
            return self.why_not(record)
        if self.gain(record) * LEAST_GAIN < self.gain(best):
            return f"{best.name} is better: {self.text(record)}"
        return f"{best.name} is as good, and nearer: {self.text(record)}"


def _keep_source(candidates: Sequence[CandidateRecord], accepted: Sequence[CandidateRecord], judge: _Judge) -> Choice:
    best = max(accepted, key=judge.gain)
    reason = f"the original: nothing is clearly better (best is {best.name}, {judge.text(best)})"
    if judge.slower_at(best):
        reason = f"the original: nothing is better at every batch size (best is {best.name}, {judge.why_not(best)})"
    verdicts = tuple(
        record.model_copy(update={"verdict": "chosen", "reason": "the original: nothing is clearly better"})
        if record.name == SOURCE
        else record.model_copy(update={"reason": judge.why_not(record)})
        if record.verdict == "accepted"
        else record
        for record in candidates
    )
    return Choice(SOURCE, SOURCE, reason, verdicts)


def _nearest_of_the_best(better: Sequence[CandidateRecord], judge: _Judge) -> CandidateRecord | None:
    """Candidates within 5 % of the best are as good as it; of these, the one nearest to the original wins."""
    if not better:
        return None
    top = max(map(judge.gain, better))
    as_good = [record for record in better if top <= LEAST_GAIN * judge.gain(record)]
    return min(as_good, key=lambda record: (_distance(record), -judge.gain(record)))


def _with_verdict(
    record: CandidateRecord, best: CandidateRecord, top: CandidateRecord, judge: _Judge
) -> CandidateRecord:
    if record is best:
        title = "" if best is top else "as good, and nearest: "
        return record.model_copy(update={"verdict": "chosen", "reason": f"{title}{judge.text(record)}"})
    if record.name == SOURCE or record.verdict != "accepted":
        return record
    return record.model_copy(update={"reason": judge.verdict(record, best)})


def _distance(record: CandidateRecord) -> float:
    return float("inf") if record.mean_abs_difference is None else record.mean_abs_difference


def _ratio(source: int | None, candidate: int | None) -> float:
    return source / candidate if source and candidate else 0.0
