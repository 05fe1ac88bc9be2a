"""Lay the engines of a version out in its folder: each under its name, with samples that it must answer ever after."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from enginehouse.engine import Engine
from enginehouse.evidence import EngineProof, EngineRecord, Golden, TargetRecord
from enginehouse.tensor import Tensors
from optimizer.graph.external_data import tensors_of
from optimizer.graph.graph import load_graph
from optimizer.publish.golden import GoldenSamples

_PRECISION_OF_HINT = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_HINT = "INFERENCE_PRECISION_HINT"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """One engine that will be published.

    Attributes:
        file: its name in the version: `model.onnx`, `model.openvino.onnx`, `model.sm89.plan`.
        source_path: where it lies now.
        role: one is chosen, one the fallback, any number are variants.
        candidate: of whose measurements it is the proof.
        settings: what its library must be told.
        target: what it needs of a machine.
        speedup: source time over its own; None where it was not measured.
        proof: what it said of itself when it was read back.
        engine: itself, open; None where it cannot run here.
    """

    file: str
    source_path: Path
    role: Literal["chosen", "variant", "fallback"]
    platform: str
    provider: str
    precision: str
    candidate: str
    settings: Mapping[str, str]
    target: TargetRecord
    speedup: float | None = None
    proof: EngineProof | None = None
    engine: Engine | None = None


def lay_out(
    folder: Path,
    engines: Sequence[BuiltEngine],
    original: Engine,
    feeds: Tensors,
    measured: Mapping[str, Mapping[str, float]],
    *,
    synthetic: bool,
) -> tuple[tuple[EngineRecord, ...], Golden]:
    """Copy every engine file, write `golden.npz`, and say how near each engine must come to it.

    Args:
        folder: of the version; it is there, and empty.
        engines: one chosen, one fallback, and variants.
        original: the source model.
        feeds: the golden samples, one feed.
        measured: the largest difference from the original on the validation rows, by candidate and output. An engine
            that cannot run here is judged elsewhere by what is said of its candidate.
        synthetic: whether the samples are seeded rows, not the user's.

    Raises:
        VerifyFailed: an engine does not give finite numbers on the samples.
        EngineFailed: it does not run on them.
    """
    names = [engine.file for engine in engines]
    assert len(set(names)) == len(names), f"two engines under one name: {names}"
    assert sorted(engine.role for engine in engines if engine.role != "variant") == ["chosen", "fallback"]
    samples = GoldenSamples(feeds, original)
    records = []
    for built in engines:
        place(built.source_path, folder / built.file)
        precisions = {built.precision, _PRECISION_OF_HINT[built.settings.get(_HINT, "f32")]}
        tolerance = samples.add(built.file, built.engine, precisions, measured.get(built.candidate, {}))
        records.append(
            EngineRecord(
                file=built.file,
                platform=built.platform,
                provider=built.provider,
                precision=built.precision,
                role=built.role,
                candidate=built.candidate,
                settings=dict(built.settings),
                target=built.target,
                speedup=built.speedup,
                proof=built.proof,
                tolerance=tolerance,
            )
        )
    return tuple(records), samples.save(folder, synthetic)


def place(source: Path, target: Path) -> None:
    """Copy an engine file to another name; weights that lie beside an ONNX file follow under that name."""
    if source.suffix == ".onnx" and _has_weights_beside(source):
        load_graph(source).save(target)
    else:
        shutil.copyfile(source, target)


def _has_weights_beside(path: Path) -> bool:
    model = onnx.load_model(str(path), load_external_data=False)
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(model))
