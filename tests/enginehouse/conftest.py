"""Evidence by hand."""

from collections.abc import Sequence
from typing import Any, Literal

from hypothesis import settings

from enginehouse.evidence import (
    SCHEMA_VERSION,
    Closeness,
    EngineRecord,
    Evidence,
    Golden,
    GoldenTolerance,
    Source,
)
from enginehouse.hardware import Hardware

Role = Literal["chosen", "variant", "fallback"]

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def near(atol: float, rtol: float = 0.0, output: str = "y") -> dict[str, Closeness]:
    return {output: Closeness(atol=atol, rtol=rtol)}


def make_record(file: str = "model.onnx", role: Role = "chosen", atol: float = 1e-3, **fields: Any) -> EngineRecord:
    """An engine whose one output is `y`."""
    return EngineRecord.model_validate(
        {
            "file": file,
            "platform": "onnxruntime_onnx",
            "provider": "CPUExecutionProvider",
            "precision": "fp32",
            "role": role,
            "tolerance": GoldenTolerance(original=near(atol), built=near(atol / 10)),
            **fields,
        }
    )


def make_evidence(
    files: dict[str, str], model: str = "m", version: int = 1, engines: Sequence[EngineRecord] = (), **fields: Any
) -> Evidence:
    """The evidence of a version with a chosen and a fallback engine; only what readers look at is telling."""
    return Evidence.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "model": model,
            "version": version,
            "created_at": "2025-01-01T00:00:00+00:00",
            "source": Source(file="source.onnx", format="onnx", sha256="00", size_bytes=1),
            "recipe": {},
            "passes": (),
            "candidates": (),
            "chosen": "fp32",
            "reason": "planted",
            "test": None,
            "engines": tuple(engines) or (make_record(), make_record("fallback.onnx", "fallback")),
            "golden": Golden(rows=2, synthetic=True),
            "threads": 1,
            "hardware": Hardware(cpu="planted", architecture="x86_64", isa=(), cores=1),
            "libraries": {},
            "files": files,
            **fields,
        }
    )
