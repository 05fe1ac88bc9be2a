"""Evidence by hand."""

from hypothesis import settings

from enginehouse.evidence import EngineRecord, Evidence, Golden, Source
from enginehouse.hardware import Hardware

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def make_evidence(files: dict[str, str], model: str = "m", version: int = 1, atol: float = 1e-3) -> Evidence:
    """The evidence of a version with a chosen and a fallback engine; only what readers look at is telling."""
    chosen = EngineRecord(
        file="model.onnx", platform="onnxruntime_onnx", provider="CPUExecutionProvider", precision="fp32", role="chosen"
    )
    fallback = chosen.model_copy(update={"file": "fallback.onnx", "role": "fallback"})
    return Evidence(
        schema_version=1,
        model=model,
        version=version,
        created_at="2025-01-01T00:00:00+00:00",
        source=Source(file="source.onnx", format="onnx", sha256="00", size_bytes=1),
        recipe={},
        passes=(),
        candidates=(),
        chosen="fp32",
        reason="planted",
        test=None,
        engines=(chosen, fallback),
        golden=Golden(
            rows=2, synthetic=True, original_atol=atol, original_rtol=0.0, built_atol=atol / 10, built_rtol=0.0
        ),
        threads=1,
        hardware=Hardware(cpu="planted", architecture="x86_64", isa=(), cores=1),
        libraries={},
        files=files,
    )
