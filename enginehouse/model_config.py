"""What a model says about itself: `config.pbtxt`, read and written with the real text format.

`ModelConfig` is the protocol's own message; unknown fields are refused, and so are known ones without which the model
would answer otherwise than it asks for. What becomes of each field is in `config_fields.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from enginehouse.config_fields import Standing, set_parameters, standing_of
from enginehouse.config_paths import set_fields, unknown_values
from enginehouse.dtype import DType, dtype_from_config_name
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelOutput
from enginehouse.tensor import TensorSpec

CONFIG_FILE = "config.pbtxt"
CUSTOM_CONFIGS = "configs"


def read_config(model_directory: Path, custom: str = "") -> ModelConfig:
    """Read `config.pbtxt` as it stands; a model without one gets an empty configuration of its name.

    Args:
        model_directory: of the model.
        custom: name of a configuration in its folder `configs`, which counts instead where the model has it.

    Raises:
        InvalidInput: not the text format, an unknown field, or a name that is not the directory's.
    """
    path = model_directory / CUSTOM_CONFIGS / f"{custom}.pbtxt"
    if not custom or not path.is_file():
        path = model_directory / CONFIG_FILE
    if not path.exists():
        return ModelConfig(name=model_directory.name)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidInput(f"{path} cannot be read as text: {problem}.") from problem
    return config_from_text(text, model_directory.name, str(path))


def config_from_text(text: str, name: str, origin: str = CONFIG_FILE) -> ModelConfig:
    """Parse the text format; raises `InvalidInput` naming line and column of the first mistake."""
    try:
        config = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as problem:
        what = str(problem).rstrip(".")
        raise InvalidInput(f"{origin} is not a model configuration: {what}.") from problem
    return _checked(config, name, origin)


def config_from_json(text: str, name: str) -> ModelConfig:
    """Parse the JSON form that a load request may carry; raises `InvalidInput`."""
    try:
        config = json_format.Parse(text, ModelConfig())
    except json_format.ParseError as problem:
        what = str(problem).rstrip(".")
        raise InvalidInput(f"the config parameter is not a model configuration: {what}.") from problem
    return _checked(config, name, "the config parameter")


def config_from_specs(
    name: str,
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch_size: int,
    parameters: Mapping[str, str],
) -> ModelConfig:
    """Make a configuration for a graph; with `max_batch_size` > 0 the leading dimension of each spec is the batch."""
    config = ModelConfig(name=name, platform=platform, max_batch_size=max_batch_size)
    for spec, tensor in [(spec, config.input.add()) for spec in inputs] + [
        (spec, config.output.add()) for spec in outputs
    ]:
        _describe(tensor, spec, has_batch=max_batch_size > 0)
    if max_batch_size > 1:
        config.dynamic_batching.SetInParent()
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def text_from_config(config: ModelConfig) -> str:
    """Write the text format, as `config.pbtxt` holds it."""
    return text_format.MessageToString(config)


def differences(published: ModelConfig, built: ModelConfig) -> list[str]:
    """List the fields in which two configurations differ, as `field: published, built`."""
    names = [field.name for field in ModelConfig.DESCRIPTOR.fields]
    return [
        f"{name}: {_field_text(published, name)} is published, {_field_text(built, name)} was built"
        for name in names
        if _field_text(published, name) != _field_text(built, name)
    ]


def refuse_unhonoured(config: ModelConfig) -> None:
    """Raise `NotSupported` naming every field that is set and would not be honoured, and why."""
    refused = _asked(config, "refused")
    if refused:
        raise NotSupported(
            f"model '{config.name}': this server does not honour {', '.join(refused)} in config.pbtxt. "
            "Remove them, or serve the model elsewhere."
        )


def emulated_fields(config: ModelConfig) -> list[str]:
    """What is set and does something else here than in Triton, each with what it does."""
    return _asked(config, "emulated")


def _asked(config: ModelConfig, standing: Standing) -> list[str]:
    asked = {path: standing_of(path) for path in sorted(set_fields(config))}
    asked |= {f"parameters['{key}']": field for key, field in set_parameters(config).items()}
    return [f"{path} ({field.note})" for path, field in asked.items() if field.standing == standing]


def versions_to_serve(config: ModelConfig, available: Sequence[int]) -> list[int]:
    """Apply the version policy; the answer is ascending. Raises `InvalidInput` for a listed version that is missing."""
    policy = config.version_policy
    ordered = sorted(available)
    match policy.WhichOneof("policy_choice"):
        case "all":
            return ordered
        case "specific":
            missing = sorted(set(policy.specific.versions) - set(ordered))
            if missing:
                raise InvalidInput(
                    f"model '{config.name}': version_policy names version {missing[0]}; there are {ordered}."
                )
            return sorted(set(policy.specific.versions))
        case _:
            return ordered[-(policy.latest.num_versions or 1) :]


def input_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Inputs with full shapes: the batch dimension leads where the model batches."""
    return tuple(_spec(config, tensor) for tensor in config.input)


def output_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Outputs with full shapes: the batch dimension leads where the model batches."""
    return tuple(_spec(config, tensor) for tensor in config.output)


def dtype_from_config(tensor: ModelInput | ModelOutput) -> DType:
    """The element type of a configured tensor; raises `InvalidInput` for a missing or unknown one."""
    known = DataType.DESCRIPTOR.values_by_number.get(tensor.data_type)
    return dtype_from_config_name(known.name if known else str(tensor.data_type))


def engine_shape(config: ModelConfig, tensor: ModelInput | ModelOutput) -> tuple[int, ...]:
    """What the engine calls a tensor's shape: `reshape` where it is given, else `dims`, behind the batch dimension."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    return (*batch, *(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims))


def _describe(tensor: ModelInput | ModelOutput, spec: TensorSpec, has_batch: bool) -> None:
    """Fill in one tensor. The format wants at least one dimension, so a scalar per row is `[1]`, reshaped to `[]`."""
    shape = spec.shape[1:] if has_batch else spec.shape
    tensor.name = spec.name
    tensor.data_type = DataType.Value(spec.dtype.config_name)  # type: ignore[assignment]
    tensor.dims.extend(shape or (1,))
    if not shape:
        tensor.reshape.SetInParent()


def _spec(config: ModelConfig, tensor: ModelInput | ModelOutput) -> TensorSpec:
    batch = (-1,) if config.max_batch_size > 0 else ()
    return TensorSpec(tensor.name, dtype_from_config(tensor), (*batch, *tensor.dims))


def _checked(config: ModelConfig, name: str, origin: str) -> ModelConfig:
    """The configuration, with the name of its directory and without numbers that mean nothing."""
    if config.name and config.name != name:
        raise InvalidInput(f"{origin} names the model '{config.name}', its directory is '{name}'; they must agree.")
    for path, number, names in unknown_values(config):
        raise InvalidInput(f"{origin}: unknown {path} {number}; expected one of {', '.join(names)}.")
    config.name = name
    return config


def _field_text(config: ModelConfig, name: str) -> str:
    only = ModelConfig()
    value = getattr(config, name)
    if isinstance(value, Message):
        if not config.HasField(name):
            return "nothing"
        getattr(only, name).SetInParent()
        getattr(only, name).MergeFrom(value)
    elif hasattr(value, "MergeFrom"):
        getattr(only, name).MergeFrom(value)
    else:
        setattr(only, name, value)
    return text_format.MessageToString(only, as_one_line=True) or "nothing"
