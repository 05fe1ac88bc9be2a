"""Complete a model configuration from what its engine says, and refuse one that contradicts it.

The defaults are Triton's: what a configuration leaves out is filled in, so that `GET …/config` answers the whole.
"""

from collections.abc import Sequence

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_specs, dtype_from_config, engine_shape
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput
from enginehouse.tensor import TensorSpec

DEFAULT_MAX_BATCH_SIZE = 4

_BACKEND_OF_PLATFORM = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "openvino": "openvino",
}
_PLATFORM_OF_FILE = {"model.onnx": "onnxruntime_onnx", "model.plan": "tensorrt_plan", "model.xml": "openvino"}
FILE_OF_PLATFORM = {platform: file for file, platform in _PLATFORM_OF_FILE.items()}


def complete_platform(config: ModelConfig, files: Sequence[str]) -> None:
    """Settle platform, backend and file name, from whichever is given or from the file that is there.

    Raises:
        InvalidInput: an unknown platform or backend, or no file that would tell.
    """
    if not config.platform:
        by_backend = {backend: platform for platform, backend in _BACKEND_OF_PLATFORM.items()}
        found = [platform for file, platform in _PLATFORM_OF_FILE.items() if file in files]
        config.platform = by_backend.get(config.backend, "") if config.backend else next(iter(found), "")
    if config.platform not in _BACKEND_OF_PLATFORM:
        raise InvalidInput(
            f"model '{config.name}' has platform '{config.platform or config.backend}' and files {sorted(files)}; "
            f"expected one of {', '.join(_BACKEND_OF_PLATFORM)}."
        )
    backend = _BACKEND_OF_PLATFORM[config.platform]
    if config.backend not in ("", backend):
        raise InvalidInput(f"model '{config.name}': platform {config.platform} does not run on {config.backend}.")
    config.backend = backend
    config.default_model_filename = config.default_model_filename or FILE_OF_PLATFORM[config.platform]
    if config.default_model_filename in (".", "..") or "/" in config.default_model_filename:
        raise InvalidInput(
            f"model '{config.name}': default_model_filename is '{config.default_model_filename}'; "
            "the name of a file in the version directory is expected."
        )


def complete_config(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Fill in inputs, outputs, batching, instances and version policy, then check all of it against the engine.

    Raises:
        InvalidInput: a tensor or a batch size that the engine does not have.
    """
    if not config.input and not config.output and not config.max_batch_size:
        _complete_batching(config, inputs, outputs)
    described = config_from_specs(config.name, config.platform, inputs, outputs, config.max_batch_size, {})
    if not config.input:
        config.input.extend(described.input)
    if not config.output:
        config.output.extend(described.output)
    _complete_defaults(config)
    _check_batching(config)
    _check_tensors(config, config.input, inputs, "input")
    _check_tensors(config, config.output, outputs, "output")


def _complete_batching(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    if inputs and all(spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs)):
        config.max_batch_size = DEFAULT_MAX_BATCH_SIZE
        config.dynamic_batching.SetInParent()


def _complete_defaults(config: ModelConfig) -> None:
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    if not config.instance_group:
        config.instance_group.add()
    for position, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{position}"
        group.count = group.count or 1
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            group.kind = ModelInstanceGroup.KIND_GPU if group.gpus else ModelInstanceGroup.KIND_CPU
    if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)


def _check_batching(config: ModelConfig) -> None:
    if config.max_batch_size < 0:
        raise InvalidInput(f"model '{config.name}': max_batch_size is {config.max_batch_size}; 0 or more expected.")
    if config.max_batch_size and not config.input:
        raise InvalidInput(f"model '{config.name}': max_batch_size needs an input, whose rows it counts.")
    if any(group.count < 0 for group in config.instance_group):
        raise InvalidInput(f"model '{config.name}': instance_group count must be 1 or more.")
    if not config.HasField("dynamic_batching"):
        return
    if config.max_batch_size == 0:
        raise InvalidInput(f"model '{config.name}': dynamic_batching needs max_batch_size above 0.")
    for size in config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            raise InvalidInput(
                f"model '{config.name}': preferred_batch_size {size} must lie in 1..{config.max_batch_size}."
            )


def _check_tensors(
    config: ModelConfig,
    described: Sequence[ModelInput] | Sequence[ModelOutput],
    specs: Sequence[TensorSpec],
    kind: str,
) -> None:
    """Each configured tensor must exist in the engine; an engine's input must not be left out, an output may."""
    by_name = {spec.name: spec for spec in specs}
    for tensor in described:
        spec = by_name.get(tensor.name)
        if spec is None:
            raise InvalidInput(
                f"model '{config.name}': unexpected inference {kind} '{tensor.name}'; the engine has {list(by_name)}."
            )
        dtype = dtype_from_config(tensor)
        shape = engine_shape(config, tensor)
        if tensor.HasField("reshape") and _segments(tensor.dims) != _segments(tensor.reshape.shape):
            raise InvalidInput(
                f"model '{config.name}': {kind} '{tensor.name}' has dims {list(tensor.dims)}, which cannot be reshaped "
                f"to {list(tensor.reshape.shape)}; between open dimensions both must hold the same number of elements."
            )
        if dtype is not spec.dtype or not _shapes_agree(shape, spec.shape, config.max_batch_size > 0, kind == "input"):
            raise InvalidInput(
                f"model '{config.name}': {kind} '{tensor.name}' is configured as {dtype.name} {list(shape)}; "
                f"the engine has {spec.dtype.name} {list(spec.shape)}."
            )
    if len({tensor.name for tensor in described}) != len(described):
        raise InvalidInput(f"model '{config.name}': an {kind} is configured more than once.")
    missing = set(by_name) - {tensor.name for tensor in described}
    if kind == "input" and missing:
        raise InvalidInput(f"model '{config.name}': the configuration leaves out the inputs {sorted(missing)}.")


def _shapes_agree(configured: Sequence[int], engine: Sequence[int], has_batch: bool, is_input: bool) -> bool:
    """An open dimension of the engine takes any size. A fixed one must be configured as it is, the batch above all;
    an output alone may be left open, because each answer says its own shape.
    """
    return len(configured) == len(engine) and all(
        have in (-1, want) or (want == -1 and not is_input and not (has_batch and axis == 0))
        for axis, (want, have) in enumerate(zip(configured, engine, strict=True))
    )


def _segments(dims: Sequence[int]) -> list[int]:
    """Count the elements between open dimensions, which is what a reshape has to keep."""
    counts = [1]
    for size in dims:
        if size == -1:
            counts.append(1)
        else:
            counts[-1] *= size
    return counts
