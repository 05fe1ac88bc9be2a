"""From a platform's name to a loaded engine."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from enginehouse.engine import Engine
from enginehouse.engine_options import EngineOptions
from enginehouse.errors import NotSupported
from enginehouse.onnxruntime_engine import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER

# Resolved on use, so that nothing heavy is imported before it is asked for.
ENGINES = {
    "onnxruntime_onnx": "enginehouse.onnxruntime_engine:OnnxRuntimeEngine",
    "openvino": "enginehouse.openvino_engine:OpenVinoEngine",
    "tensorrt_plan": "enginehouse.tensorrt_engine:TensorRTEngine",
}

# What a version's evidence may tell each library, and the argument of its door.
_ARGUMENTS = {
    "onnxruntime_onnx": {},
    "openvino": {"INFERENCE_PRECISION_HINT": "precision_hint"},
    "tensorrt_plan": {"library": "library"},
}


def open_engine(
    path: Path,
    platform: str,
    threads: int,
    provider: str = CPU_PROVIDER,
    settings: Mapping[str, str] | None = None,
    options: EngineOptions | None = None,
) -> Engine:
    """Load an engine file.

    Args:
        path: the engine file.
        platform: the kind of artifact, a key of `ENGINES`.
        threads: threads inside one operator, see `hardware.threads_per_instance`.
        provider: execution provider, for ONNX Runtime.
        settings: what the library must be told, as the evidence has it.
        options: what the model's configuration asks of the library.

    Raises:
        NotSupported: an unknown platform or setting, or a provider that is not used although it was asked for.
        MissingExtra: the library behind the platform is not installed.
        EngineFailed: the library cannot open the file.
    """
    if platform not in ENGINES:
        raise NotSupported(f"platform '{platform}' is unknown; expected one of {', '.join(ENGINES)}.")
    options = options or EngineOptions()
    if platform == "onnxruntime_onnx" and options.is_openvino and provider == CPU_PROVIDER:
        platform = "openvino"
    if platform == "openvino" and provider != CPU_PROVIDER:
        raise NotSupported(f"platform 'openvino' runs on the CPU here, not with {provider}; use KIND_CPU instances.")
    arguments: dict[str, Any] = _arguments(path, platform, settings or {})
    if platform == "onnxruntime_onnx":
        arguments |= _session_arguments(provider, options)
    if platform == "openvino":
        arguments["options"] = options.openvino
        if options.precision_hint:
            arguments["precision_hint"] = options.precision_hint
    module_name, _, class_name = ENGINES[platform].partition(":")
    engine_class = getattr(import_module(module_name), class_name)
    return cast(Engine, engine_class(path, threads, **arguments))


def _session_arguments(provider: str, options: EngineOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {"provider": provider, "wanted": options.session}
    if provider == CUDA_PROVIDER and options.tensorrt is not None:
        return {**arguments, "provider": TENSORRT_PROVIDER, "provider_options": options.tensorrt}
    if provider == CUDA_PROVIDER:
        arguments["provider_options"] = options.cuda
    return arguments


def _arguments(path: Path, platform: str, settings: Mapping[str, str]) -> dict[str, Any]:
    known = _ARGUMENTS[platform]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise NotSupported(
            f"{path.name} asks for the setting {unknown[0]}, which engines of platform '{platform}' do not have; "
            f"expected one of {', '.join(known) or 'none'}. Build the version again, or update the server."
        )
    return {known[name]: value for name, value in settings.items()}
