"""From what a build made to a loaded engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from enginehouse.engine import Engine
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.openvino_engine import OpenVinoEngine
from enginehouse.tensorrt_engine import TensorRTEngine
from optimizer.trial import EngineName, Hint


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that an engine can be opened from.

    Attributes:
        path: an ONNX graph, or a plan for TensorRT.
        engine: what opens it.
        hint: what OpenVINO computes float layers in.
        provider: ONNX Runtime's execution provider.
    """

    path: Path
    engine: EngineName
    hint: Hint = "f32"
    provider: str = CPU_PROVIDER


def open_artifact(artifact: Artifact, threads: int) -> Engine:
    """Load an artifact on this machine.

    Raises:
        MissingExtra: the engine's library is not installed.
        NotSupported: the provider is missing, or was silently not used.
        EngineFailed: the library cannot open the file.
    """
    match artifact.engine:
        case "onnxruntime":
            return OnnxRuntimeEngine(artifact.path, threads, artifact.provider)
        case "openvino":
            return OpenVinoEngine(artifact.path, threads, artifact.hint)
        case "tensorrt" | "tensorrt-rtx":
            return TensorRTEngine(artifact.path, threads, artifact.engine)
        case _:
            assert_never(artifact.engine)
