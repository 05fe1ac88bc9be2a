"""From a platform's name to a loaded engine."""

from importlib import import_module
from pathlib import Path
from typing import cast

from enginehouse.engine import Engine
from enginehouse.errors import NotSupported
from enginehouse.onnxruntime_engine import CPU_PROVIDER

# Resolved on use, so that nothing heavy is imported before it is asked for.
ENGINES = {
    "onnxruntime_onnx": "enginehouse.onnxruntime_engine:OnnxRuntimeEngine",
    "openvino": "enginehouse.openvino_engine:OpenVinoEngine",
    "tensorrt_plan": "enginehouse.tensorrt_engine:TensorRTEngine",
}


def open_engine(path: Path, platform: str, threads: int, provider: str = CPU_PROVIDER) -> Engine:
    """Load an engine file.

    Args:
        path: the engine file.
        platform: the kind of artifact, a key of `ENGINES`.
        threads: threads inside one operator, see `hardware.threads_per_instance`.
        provider: execution provider, for ONNX Runtime.

    Raises:
        NotSupported: an unknown platform, or a provider that is not used although it was asked for.
        MissingExtra: the library behind the platform is not installed.
        EngineFailed: the library cannot open the file.
    """
    if platform not in ENGINES:
        raise NotSupported(f"platform '{platform}' is unknown; expected one of {', '.join(ENGINES)}.")
    module_name, _, class_name = ENGINES[platform].partition(":")
    engine_class = getattr(import_module(module_name), class_name)
    if platform == "onnxruntime_onnx":
        return cast(Engine, engine_class(path, threads, provider))
    if platform == "openvino" and provider != CPU_PROVIDER:
        raise NotSupported(f"platform 'openvino' runs on the CPU here, not with {provider}; use KIND_CPU instances.")
    return cast(Engine, engine_class(path, threads))
