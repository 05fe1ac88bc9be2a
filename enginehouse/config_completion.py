"""Complete a model configuration from what its engine says, and refuse one that contradicts it.

The defaults are Triton's: what a configuration leaves out is filled in, so that `GET …/config` answers the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from enginehouse.config_fields import BACKEND_OF_PLATFORM
from enginehouse.config_rules import check_config
from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_specs, dtype_from_config, engine_shape
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput
from enginehouse.ragged_config import check_ragged
from enginehouse.sequence_config import check_sequence_batching, complete_sequence_batching
from enginehouse.tensor import TensorSpec

DEFAULT_MAX_BATCH_SIZE = 4

_PLATFORM_OF_FILE = {
    "model.onnx": "onnxruntime_onnx",
    "model.plan": "tensorrt_plan",
    "model.xml": "openvino",
    "model.py": "python",
}
FILE_OF_PLATFORM = {platform: file for file, platform in _PLATFORM_OF_FILE.items()}


@dataclass(slots=True, frozen=True)
class Completion:
    """How much is filled in.

    Attributes:
        max_batch_sizes: of models that can batch and do not say how far, by backend; the empty name is for all others.
        is_strict: nothing that describes the model is: what is left out is an error.
    """

    max_batch_sizes: Mapping[str, int] = field(default_factory=dict)
    is_strict: bool = False

    def max_batch_size(self, backend: str) -> int:
        """Rows of a batch where the configuration does not say."""
        default = self.max_batch_sizes.get("", DEFAULT_MAX_BATCH_SIZE)
        return self.max_batch_sizes.get(backend, default)


LENIENT = Completion()


def complete_platform(config: ModelConfig, files: Sequence[str]) -> None:
    """Settle platform, backend and file name, from whichever is given or from the file that is there.

    Raises:
        InvalidInput: an unknown platform or backend, or no file that would tell.
    """
    if not config.platform:
        by_backend = {backend: platform for platform, backend in BACKEND_OF_PLATFORM.items()}
        named = [config.default_model_filename] if config.default_model_filename in _PLATFORM_OF_FILE else files
        found = [platform for file, platform in _PLATFORM_OF_FILE.items() if file in named]
        config.platform = by_backend.get(config.backend, "") if config.backend else next(iter(found), "")
    if config.platform not in BACKEND_OF_PLATFORM:
        raise InvalidInput(
            f"model '{config.name}' has platform '{config.platform or config.backend}' and files {sorted(files)}; "
            f"expected one of {', '.join(BACKEND_OF_PLATFORM)}."
        )
    backend = BACKEND_OF_PLATFORM[config.platform]
    if config.backend not in ("", backend):
        raise InvalidInput(f"model '{config.name}': platform {config.platform} does not run on {config.backend}.")
    config.backend = backend
    config.default_model_filename = config.default_model_filename or FILE_OF_PLATFORM[config.platform]
    for field_name, name in [
        ("default_model_filename", config.default_model_filename),
        *((f"cc_model_filenames['{key}']", name) for key, name in sorted(config.cc_model_filenames.items())),
    ]:
        if name in ("", ".", "..") or "/" in name:
            raise InvalidInput(
                f"model '{config.name}': {field_name} is '{name}'; "
                "the name of a file in the version directory is expected."
            )


def complete_config(
    config: ModelConfig,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    completion: Completion = LENIENT,
    optional: Sequence[TensorSpec] = (),
) -> None:
    """Fill in inputs, outputs, batching, instances and version policy, then check all of it against the engine.

    Args:
        config: is changed.
        inputs: what the engine needs.
        outputs: what it gives.
        completion: how much is filled in.
        optional: inputs that it takes beside those.

    Raises:
        InvalidInput: a tensor or a batch size that the engine does not have, or, where nothing is to be filled in, one
            that is missing.
    """
    if completion.is_strict:
        _check_described(config)
    else:
        _complete_description(config, inputs, outputs, completion.max_batch_size(config.backend))
    complete_defaults(config)
    check_config(config)
    check_ragged(config, inputs)
    if config.HasField("sequence_batching"):
        check_sequence_batching(config, inputs, outputs)
    hidden = _hidden_inputs(config)
    _check_inputs(config, [spec for spec in inputs if spec.name not in hidden], optional)
    _check_tensors(config, config.output, outputs, "output")


def complete_defaults(config: ModelConfig) -> None:
    """Fill in what follows from the configuration alone, as Triton's normalized configuration has it."""
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    _complete_instances(config)
    for buffers in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(buffers):
            getattr(config.optimization, buffers).enable = True
    if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
    if config.HasField("sequence_batching"):
        complete_sequence_batching(config)


def model_file(config: ModelConfig, compute_capability: str | None) -> str:
    """Name the file to open: the one for a GPU of this compute capability, such as `8.6`, else the default one.

    An instance that does not run on a GPU has no compute capability.
    """
    if compute_capability is None:
        return config.default_model_filename
    return config.cc_model_filenames.get(compute_capability) or config.default_model_filename


def _complete_description(
    config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int
) -> None:
    """What is described on both sides stays as it is; else the engine tells, and rows are joined where they can be."""
    if config.input and config.output:
        return
    hidden = _hidden_inputs(config)
    kept = {state.output_name for state in config.sequence_batching.state}
    can_batch = bool(inputs) and all(spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs))
    if can_batch and not config.input and not config.output and not config.max_batch_size:
        config.max_batch_size = max_batch_size
    visible = [spec for spec in inputs if spec.name not in hidden]
    given = [spec for spec in outputs if spec.name not in kept]
    described = config_from_specs(config.name, config.platform, visible, given, config.max_batch_size, {})
    if not config.input:
        config.input.extend(described.input)
    if not config.output:
        config.output.extend(described.output)
    if can_batch and config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()


def _check_described(config: ModelConfig) -> None:
    missing = [name for name in ("input", "output") if not getattr(config, name)]
    if missing:
        raise InvalidInput(
            f"model '{config.name}' must specify {' and '.join(missing)}: "
            "configurations are not completed here (strict model configuration)."
        )


def _complete_instances(config: ModelConfig) -> None:
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    for position, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{position}"
        group.count = group.count or 1
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            group.kind = ModelInstanceGroup.KIND_GPU if group.gpus else ModelInstanceGroup.KIND_CPU


def _hidden_inputs(config: ModelConfig) -> set[str]:
    """Inputs of the engine that no client sends: the server fills them in."""
    sequences = config.sequence_batching
    return {
        *(control.name for control in sequences.control_input),
        *(state.input_name for state in sequences.state),
        *(name for batch_input in config.batch_input for name in batch_input.target_name),
    }


def _expected_shape(config: ModelConfig, tensor: ModelInput | ModelOutput) -> tuple[int, ...]:
    """The engine's shape of a configured tensor; rows of unequal length lie one behind the other, without a batch."""
    scattered = {name for batch_output in config.batch_output for name in batch_output.target_name}
    is_ragged = isinstance(tensor, ModelInput) and tensor.allow_ragged_batch
    return (-1,) if is_ragged or tensor.name in scattered else engine_shape(config, tensor)


def _check_inputs(config: ModelConfig, needed: Sequence[TensorSpec], optional: Sequence[TensorSpec]) -> None:
    """What the engine needs must not be left out, neither here nor by a client."""
    _check_tensors(config, config.input, [*needed, *optional], "input")
    missing = {spec.name for spec in needed} - {tensor.name for tensor in config.input}
    if missing:
        raise InvalidInput(f"model '{config.name}': the configuration leaves out the inputs {sorted(missing)}.")
    for tensor in config.input:
        if tensor.optional and tensor.name not in {spec.name for spec in optional}:
            raise InvalidInput(
                f"model '{config.name}': input '{tensor.name}' is optional in the configuration, but the engine needs "
                "it; give it an initial value in the graph, or leave `optional` out."
            )


def _check_tensors(
    config: ModelConfig,
    described: Sequence[ModelInput] | Sequence[ModelOutput],
    specs: Sequence[TensorSpec],
    kind: str,
) -> None:
    """Each configured tensor must exist in the engine."""
    by_name = {spec.name: spec for spec in specs}
    for tensor in described:
        spec = by_name.get(tensor.name)
        if spec is None:
            raise InvalidInput(
                f"model '{config.name}': unexpected inference {kind} '{tensor.name}'; the engine has {list(by_name)}."
            )
        dtype = dtype_from_config(tensor)
        shape = _expected_shape(config, tensor)
        if dtype is not spec.dtype or not _shapes_agree(shape, spec.shape, config.max_batch_size > 0, kind == "input"):
            raise InvalidInput(
                f"model '{config.name}': {kind} '{tensor.name}' is configured as {dtype.name} {list(shape)}; "
                f"the engine has {spec.dtype.name} {list(spec.shape)}."
            )
    if len({tensor.name for tensor in described}) != len(described):
        raise InvalidInput(f"model '{config.name}': an {kind} is configured more than once.")


def _shapes_agree(configured: Sequence[int], engine: Sequence[int], has_batch: bool, is_input: bool) -> bool:
    """An open dimension of the engine takes any size. A fixed one must be configured as it is, the batch above all;
    an output alone may be left open, because each answer says its own shape.
    """
    return len(configured) == len(engine) and all(
        have in (-1, want) or (want == -1 and not is_input and not (has_batch and axis == 0))
        for axis, (want, have) in enumerate(zip(configured, engine, strict=True))
    )
