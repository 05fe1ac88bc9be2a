"""Write down what a build found out: a record per candidate, and the evidence of the version."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from enginehouse.evidence import (
    CandidateRecord,
    EngineRecord,
    Evidence,
    Golden,
    PassRecord,
    TestScore,
)
from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from optimizer.candidates import SOURCE, Candidate
from optimizer.evaluate.benchmark import Benchmark
from optimizer.evaluate.verify import Verification
from optimizer.plan import PLATFORM, Plan
from optimizer.search import Choice

_LIBRARIES = ("enginehouse", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnxslim")


@dataclass(frozen=True, slots=True)
class Finished:
    """The files of a version before it has a number, and what is known of them."""

    chosen: Candidate
    fallback: Candidate
    test: TestScore | None
    golden: Golden
    files: Path


def record_candidate(
    candidate: Candidate, verifications: Mapping[str, Verification], measured: Benchmark | None = None
) -> CandidateRecord:
    """Put together what was verified and, if that was done already, measured about one candidate."""
    base = CandidateRecord(
        name=candidate.name,
        precision=candidate.precision,
        size_bytes=candidate.size_bytes,
        verdict="accepted",
        reason="the original",
    )
    if candidate.name == SOURCE:
        return base.model_copy(update=_measured(SOURCE, measured))
    if candidate.declined:
        return base.model_copy(update={"verdict": "declined", "reason": candidate.declined})
    return _verified(base, verifications[candidate.name], measured)


def make_evidence(
    plan: Plan, choice: Choice, passes: tuple[PassRecord, ...], finished: Finished, version: int
) -> Evidence:
    """Everything that is known, under a version number; the digests are filled in by whoever publishes."""
    return Evidence(
        schema_version=1,
        model=plan.recipe.name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=plan.source,
        recipe=plan.recipe.model_dump(mode="json"),
        passes=passes,
        candidates=choice.candidates,
        chosen=choice.chosen,
        reason=choice.reason,
        test=finished.test,
        engines=(
            _engine("model.onnx", finished.chosen, "chosen"),
            _engine("fallback.onnx", finished.fallback, "fallback"),
        ),
        golden=finished.golden,
        threads=threads_per_instance(1),
        hardware=this_hardware(),
        libraries=_libraries(),
        files={},
    )


def fallback_name(choice: Choice) -> str:
    """The engine that runs anywhere: the rewritten graph in the source's precision, or the source if that is worse."""
    portable = (
        record.name
        for record in choice.candidates
        if record.verdict in ("accepted", "chosen") and record.name not in (SOURCE, "int8")
    )
    return next(portable, SOURCE)


def _verified(base: CandidateRecord, found: Verification, measured: Benchmark | None) -> CandidateRecord:
    failed = "failed" if found.has_failed else "rejected"
    return base.model_copy(
        update={
            "metric": found.metric,
            "max_abs_difference": _finite(found.distance.largest),
            "mean_abs_difference": _finite(found.distance.mean),
            "batch_invariant": found.invariance.holds if found.invariance else None,
            "batch_difference": _finite(found.invariance.difference) if found.invariance else None,
            "verdict": "accepted" if found.is_accepted else failed,
            "reason": found.reason,
            **_measured(base.name, measured),
        }
    )


def _measured(name: str, measured: Benchmark | None) -> dict[str, Any]:
    if measured is None or name not in measured.names:
        return {}
    return {"latency": measured.latency(name), "speedup": None if name == SOURCE else measured.speedup(name)}


def _engine(file: str, candidate: Candidate, role: str) -> EngineRecord:
    return EngineRecord.model_validate(
        {
            "file": file,
            "platform": PLATFORM,
            "provider": CPU_PROVIDER,
            "precision": candidate.precision,
            "role": role,
        }
    )


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < float("inf") else None
