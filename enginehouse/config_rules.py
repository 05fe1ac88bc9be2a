"""What a configuration must hold by itself, whatever its engine says. The rules are Triton's, in our words.

The rules of one kind of model stand elsewhere: sequences in `sequence_config.py`, ensembles in the service.
"""

import re
from collections.abc import Sequence

from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import (
    BatchInput,
    DataType,
    ModelConfig,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelQueuePolicy,
)

_TENSORRT = "tensorrt_plan"
_BATCH_INPUT_TYPES = (DataType.TYPE_INT32, DataType.TYPE_FP32)
_TAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_]*")

# The one family of metrics whose buckets a model may choose.
FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"


def check_config(config: ModelConfig, is_described: bool = True) -> None:
    """Check a configuration; raises `InvalidInput` naming the first word that breaks a rule.

    Args:
        config: with its defaults filled in.
        is_described: it holds its inputs and outputs; else an engine is yet to tell them.
    """
    _check_batching(config, is_described)
    if config.HasField("dynamic_batching"):
        _check_dynamic_batching(config)
    _check_response_cache(config)
    for group in config.instance_group:
        _check_instance_group(config, group)
    for tensor in config.input:
        _check_input(config, tensor)
    for output in config.output:
        _check_tensor(config, output, "output")
    _check_batch_inputs(config)
    _check_batch_outputs(config)
    _check_metrics(config)


def _check_batching(config: ModelConfig, is_described: bool) -> None:
    if config.max_batch_size < 0:
        raise _broken(config, f"max_batch_size is {config.max_batch_size}; 0 or more expected.")
    if is_described and config.max_batch_size and not config.input:
        raise _broken(config, "max_batch_size needs an input, whose rows it counts.")


def _check_dynamic_batching(config: ModelConfig) -> None:
    if config.max_batch_size == 0:
        raise _broken(config, "dynamic_batching needs max_batch_size above 0.")
    for size in config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            raise _broken(config, f"preferred_batch_size {size} must lie in 1..{config.max_batch_size}.")
    _check_priorities(config)
    _check_ordering(config)


def _check_priorities(config: ModelConfig) -> None:
    batching = config.dynamic_batching
    levels = batching.priority_levels
    if not levels:
        if batching.default_priority_level or batching.priority_queue_policy:
            raise _broken(config, "default_priority_level and priority_queue_policy need priority_levels above 0.")
        return
    if not 1 <= batching.default_priority_level <= levels:
        raise _broken(
            config, f"default_priority_level {batching.default_priority_level} must be in range [1, {levels}]."
        )
    for level in sorted(batching.priority_queue_policy):
        if not 1 <= level <= levels:
            raise _broken(config, f"priority_queue_policy has level {level}; it must be in range [1, {levels}].")


def _check_ordering(config: ModelConfig) -> None:
    batching = config.dynamic_batching
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        raise _broken(config, "only one priority level is allowed when preserve_ordering is true.")
    for policy in (batching.default_queue_policy, *batching.priority_queue_policy.values()):
        if policy.default_timeout_microseconds and policy.timeout_action == ModelQueuePolicy.DELAY:
            raise _broken(config, "timeout_action DELAY would break the order that preserve_ordering promises.")


def _check_response_cache(config: ModelConfig) -> None:
    if not config.response_cache.enable:
        return
    if config.HasField("sequence_batching"):
        raise _broken(config, "response_cache cannot be enabled together with sequence_batching.")
    if config.model_transaction_policy.decoupled:
        raise _broken(config, "response_cache cannot be enabled for a decoupled model.")


def _check_instance_group(config: ModelConfig, group: ModelInstanceGroup) -> None:
    where = f"instance_group '{group.name}'"
    if group.count < 0:
        raise _broken(config, f"{where} has count {group.count}; the count must be 1 or more.")
    if group.gpus and group.kind in (ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_MODEL):
        kind = ModelInstanceGroup.Kind.Name(group.kind)
        raise _broken(config, f"{where} has kind {kind} but specifies GPUs {list(group.gpus)}; leave out one of them.")
    if group.profile and config.platform != _TENSORRT:
        raise _broken(config, f"{where} has a profile, which only TensorRT plans have.")
    for profile in group.profile:
        if not profile.isdecimal():
            raise _broken(config, f"{where} has profile '{profile}'; a number of 0 or more is expected.")


def _check_input(config: ModelConfig, tensor: ModelInput) -> None:
    _check_tensor(config, tensor, "input")
    if tensor.format != ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
        name = ModelInput.Format.Name(tensor.format)
        raise _broken(config, f"input '{tensor.name}' has {name}, which needs 3 dims; found {list(tensor.dims)}.")
    if tensor.optional and (tensor.allow_ragged_batch or config.HasField("sequence_batching")):
        raise _broken(config, f"input '{tensor.name}' is optional; it can be neither ragged nor part of a sequence.")


def _check_tensor(config: ModelConfig, tensor: ModelInput | ModelOutput, kind: str) -> None:
    if not tensor.name:
        raise _broken(config, f"an {kind} has no name.")
    if tensor.data_type == DataType.TYPE_INVALID:
        raise _broken(config, f"{kind} '{tensor.name}' has no data_type.")
    if not tensor.dims:
        raise _broken(config, f"{kind} '{tensor.name}' has no dims; a scalar is dims [ 1 ], reshaped to [ ].")
    _check_dims(config, tensor.dims, f"{kind} '{tensor.name}' has dims")
    _check_dims(config, tensor.reshape.shape, f"{kind} '{tensor.name}' is reshaped to")
    if tensor.HasField("reshape") and _segments(tensor.dims) != _segments(tensor.reshape.shape):
        raise _broken(
            config,
            f"{kind} '{tensor.name}' has dims {list(tensor.dims)}, which cannot be reshaped to "
            f"{list(tensor.reshape.shape)}; between open dimensions both must hold the same number of elements.",
        )
    if tensor.is_shape_tensor and config.platform != _TENSORRT:
        raise _broken(config, f"{kind} '{tensor.name}' is a shape tensor, which only TensorRT plans have.")


def _segments(dims: Sequence[int]) -> list[int]:
    """Count the elements between open dimensions, which is what a reshape has to keep."""
    counts = [1]
    for size in dims:
        if size == -1:
            counts.append(1)
        else:
            counts[-1] *= size
    return counts


def _check_dims(config: ModelConfig, dims: Sequence[int], what: str) -> None:
    for size in dims:
        if size < 1 and size != -1:
            raise _broken(config, f"{what} {list(dims)}; each must be 1 or more, or -1 for an open one.")


def _check_batch_inputs(config: ModelConfig) -> None:
    inputs = {tensor.name for tensor in config.input}
    for batch_input in config.batch_input:
        kind = BatchInput.Kind.Name(batch_input.kind)
        if len(batch_input.source_input) != 1:
            raise _broken(config, f"batch_input {kind} expects 1 source_input, got {len(batch_input.source_input)}.")
        if batch_input.data_type not in _BATCH_INPUT_TYPES:
            raise _broken(config, f"batch_input {kind} must have data_type TYPE_INT32 or TYPE_FP32.")
        if batch_input.source_input[0] not in inputs:
            source = batch_input.source_input[0]
            raise _broken(
                config, f"batch_input {kind} names the unknown source_input '{source}'; there are {sorted(inputs)}."
            )


def _check_batch_outputs(config: ModelConfig) -> None:
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    for batch_output in config.batch_output:
        if len(batch_output.source_input) != 1:
            raise _broken(config, f"batch_output expects 1 source_input, got {len(batch_output.source_input)}.")
        if batch_output.source_input[0] not in inputs:
            source = batch_output.source_input[0]
            raise _broken(
                config, f"batch_output names the unknown source_input '{source}'; there are {sorted(inputs)}."
            )
        for target in batch_output.target_name:
            if target not in outputs:
                raise _broken(
                    config, f"batch_output names the unknown target_name '{target}'; there are {sorted(outputs)}."
                )
        if len(set(batch_output.target_name)) != len(batch_output.target_name):
            raise _broken(config, f"batch_output names a target twice: {list(batch_output.target_name)}.")


def _check_metrics(config: ModelConfig) -> None:
    for tag in sorted(config.metric_tags):
        if not _TAG.fullmatch(tag):
            raise _broken(
                config, f"metric_tags has '{tag}'; a label takes letters, digits and, behind one, underscores."
            )
    for control in config.model_metrics.metric_control:
        family = control.metric_identifier.family
        if not family:
            raise _broken(config, "model_metrics has a metric_control without metric_identifier.family.")
        if family != FIRST_RESPONSE:
            raise _broken(config, f"model_metrics names '{family}'; only {FIRST_RESPONSE} takes buckets.")
        buckets = list(control.histogram_options.buckets)
        if sorted(set(buckets)) != buckets:
            raise _broken(config, f"model_metrics has buckets {buckets}; they must rise.")


def _broken(config: ModelConfig, what: str) -> InvalidInput:
    return InvalidInput(f"model '{config.name}': {what}")
