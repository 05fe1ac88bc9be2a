"""Write down what a build found out: the evidence of the version."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

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
from optimizer.plan import Plan

_LIBRARIES = (
    "enginehouse", "ml-dtypes", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnxslim", "openvino",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip


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
    serving_batch: int | None = None,
) -> Evidence:
    """Everything that is known, under a version number; the digests are filled in by whoever publishes."""
    return Evidence(
        schema_version=SCHEMA_VERSION,
        model=plan.recipe.name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=plan.source,
        recipe=plan.recipe.model_dump(mode="json"),
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
        serving_batch=serving_batch,
        threads=threads_per_instance(1),
        hardware=this_hardware(),
        libraries=installed_libraries(),
        files={},
    )


def installed_libraries() -> dict[str, str]:
    """The version of each library that had a hand in a build."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
