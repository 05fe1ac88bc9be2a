"""Write down what a build found out: the evidence of the version."""

from collections.abc import Sequence
from datetime import UTC, datetime

from enginehouse.evidence import (
    SCHEMA_VERSION,
    CalibrationRecord,
    CandidateRecord,
    EngineRecord,
    Evidence,
    Golden,
    LayerRecord,
    PassRecord,
    RepairRecord,
    TestScore,
    WorstSample,
)
from enginehouse.hardware import this_hardware, threads_per_instance
from optimizer.libraries import library_versions
from optimizer.plan import Plan


def make_evidence(
    plan: Plan,
    version: int,
    *,
    passes: Sequence[PassRecord],
    candidates: Sequence[CandidateRecord],
    chosen: str,
    reason: str,
    engines: Sequence[EngineRecord],
    golden: Golden,
    test: TestScore | None = None,
    layers: Sequence[LayerRecord] = (),
    repairs: Sequence[RepairRecord] = (),
    calibration: CalibrationRecord | None = None,
    worst: WorstSample | None = None,
    data_sha256: str | None = None,
) -> Evidence:
    """Everything that is known, under a version number; the digests are filled in by whoever publishes."""
    return Evidence(
        schema_version=SCHEMA_VERSION,
        model=plan.recipe.name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=plan.source,
        recipe=plan.recipe.model_dump(mode="json"),
        data_sha256=data_sha256,
        passes=tuple(passes),
        candidates=tuple(candidates),
        chosen=chosen,
        reason=reason,
        test=test,
        engines=tuple(engines),
        golden=golden,
        layers=tuple(layers),
        repairs=tuple(repairs),
        calibration=calibration,
        worst=worst,
        serving_batch=plan.recipe.serving_batch,
        threads=threads_per_instance(1),
        hardware=this_hardware(),
        libraries=library_versions(),
        files={},
    )
