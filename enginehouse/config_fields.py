"""What becomes of each field of a model configuration: the one table that loading, linting and the documentation read.

A field that a change makes work is flipped here, in the same commit. A test holds the table to the message's own
description: no field is left out, none is made up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from enginehouse.proto.model_config_pb2 import ModelConfig

Standing = Literal["honoured", "emulated", "refused"]


@dataclass(slots=True, frozen=True)
class Field:
    """What becomes of one field.

    Attributes:
        standing: honoured does what it does in Triton; emulated is accepted, and the note says what happens instead;
            refused fails the load, naming the field.
        note: what a reader of the table has to know; of a refused field, why or what to do instead.
    """

    standing: Standing
    note: str = ""


_YES = Field("honoured")
_UNKNOWN = Field("refused", "not known to this server; leave it out")
_RATE_LIMIT = Field("honoured", "with `--rate-limit execution_count`; without it nothing is limited, as in Triton")
_HINT = Field("emulated", "a hint for speed that is not taken; the answers are the same")

_SHAPE_TENSOR = Field("refused", "shape tensors of TensorRT; build the plan with fixed shapes")

# Each platform runs on one backend, and either may be left out of a configuration.
BACKEND_OF_PLATFORM = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "openvino": "openvino",
    "python": "python",
}

# By dotted path of the field; a map of plain values is one field, a map of messages is entered.
FIELDS: Mapping[str, Field] = {
    "name": Field("honoured", "must be the directory's name where it is given"),
    "platform": Field("honoured", "`onnxruntime_onnx`, `tensorrt_plan`, `openvino`, `python`, `ensemble`; no other"),
    "backend": Field("honoured", "`onnxruntime`, `tensorrt`, `openvino`, `python`; any other is refused"),
    "runtime": Field("refused", "names a shared library of Triton's; leave it out"),
    "version_policy.latest.num_versions": _YES,
    "version_policy.all": _YES,
    "version_policy.specific.versions": Field("honoured", "a version that is not there is an error"),
    "max_batch_size": _YES,
    "input.name": _YES,
    "input.data_type": _YES,
    "input.format": Field("emulated", "describes the picture; the engine takes what `dims` says"),
    "input.dims": _YES,
    "input.reshape.shape": _YES,
    "input.is_shape_tensor": _SHAPE_TENSOR,
    "input.allow_ragged_batch": _YES,
    "input.optional": Field("honoured", "of ONNX Runtime, where the graph has a value for it"),
    "input.is_non_linear_format_io": Field(
        "refused", "vectorized layouts of TensorRT; build the plan with linear ones"
    ),
    "output.name": _YES,
    "output.data_type": _YES,
    "output.dims": _YES,
    "output.reshape.shape": _YES,
    "output.label_filename": Field("honoured", "a path inside of the model's directory, a label a line"),
    "output.is_shape_tensor": _SHAPE_TENSOR,
    "output.is_non_linear_format_io": Field(
        "refused", "vectorized layouts of TensorRT; build the plan with linear ones"
    ),
    "batch_input.kind": _YES,
    "batch_input.target_name": _YES,
    "batch_input.data_type": _YES,
    "batch_input.source_input": _YES,
    "batch_output.target_name": _YES,
    "batch_output.kind": _YES,
    "batch_output.source_input": _YES,
    "optimization.graph.level": Field("honoured", "by ONNX Runtime, as its backend takes it: -1, 0, 1 or 2"),
    "optimization.priority": _HINT,
    "optimization.cuda.graphs": _HINT,
    "optimization.cuda.busy_wait_events": _HINT,
    "optimization.cuda.graph_spec.batch_size": _HINT,
    "optimization.cuda.graph_spec.input.dim": _HINT,
    "optimization.cuda.graph_spec.graph_lower_bound.batch_size": _HINT,
    "optimization.cuda.graph_spec.graph_lower_bound.input.dim": _HINT,
    "optimization.cuda.output_copy_stream": _HINT,
    "optimization.execution_accelerators.gpu_execution_accelerator.name": Field(
        "honoured", "`tensorrt` and `cuda`, providers of ONNX Runtime; any other is refused"
    ),
    "optimization.execution_accelerators.gpu_execution_accelerator.parameters": Field(
        "honoured", "those of `enginehouse/engine_options.py`; any other is refused"
    ),
    "optimization.execution_accelerators.cpu_execution_accelerator.name": Field(
        "emulated", "`openvino`: the ONNX file runs in OpenVINO itself; any other is refused"
    ),
    "optimization.execution_accelerators.cpu_execution_accelerator.parameters": Field(
        "refused", "OpenVINO takes none here"
    ),
    "optimization.input_pinned_memory.enable": Field("emulated", "a hint; the engine's library copies its own way"),
    "optimization.output_pinned_memory.enable": Field("emulated", "a hint; the engine's library copies its own way"),
    "optimization.gather_kernel_buffer_threshold": _HINT,
    "optimization.eager_batching": _HINT,
    "dynamic_batching.preferred_batch_size": _YES,
    "dynamic_batching.max_queue_delay_microseconds": _YES,
    "dynamic_batching.preserve_ordering": _YES,
    "dynamic_batching.priority_levels": _YES,
    "dynamic_batching.default_priority_level": _YES,
    "dynamic_batching.default_queue_policy.timeout_action": _YES,
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": _YES,
    "dynamic_batching.default_queue_policy.allow_timeout_override": _YES,
    "dynamic_batching.default_queue_policy.max_queue_size": _YES,
    "dynamic_batching.priority_queue_policy.timeout_action": _YES,
    "dynamic_batching.priority_queue_policy.default_timeout_microseconds": _YES,
    "dynamic_batching.priority_queue_policy.allow_timeout_override": _YES,
    "dynamic_batching.priority_queue_policy.max_queue_size": _YES,
    "sequence_batching.direct.max_queue_delay_microseconds": _YES,
    "sequence_batching.direct.minimum_slot_utilization": _YES,
    "sequence_batching.oldest.max_candidate_sequences": _YES,
    "sequence_batching.oldest.preferred_batch_size": _YES,
    "sequence_batching.oldest.max_queue_delay_microseconds": _YES,
    "sequence_batching.oldest.preserve_ordering": Field(
        "emulated", "answers of one sequence always keep their order; those of several never wait for each other"
    ),
    "sequence_batching.max_sequence_idle_microseconds": _YES,
    "sequence_batching.control_input.name": _YES,
    "sequence_batching.control_input.control.kind": _YES,
    "sequence_batching.control_input.control.int32_false_true": _YES,
    "sequence_batching.control_input.control.fp32_false_true": _YES,
    "sequence_batching.control_input.control.bool_false_true": _YES,
    "sequence_batching.control_input.control.data_type": _YES,
    "sequence_batching.state.input_name": _YES,
    "sequence_batching.state.output_name": _YES,
    "sequence_batching.state.data_type": _YES,
    "sequence_batching.state.dims": _YES,
    "sequence_batching.state.initial_state.data_type": _YES,
    "sequence_batching.state.initial_state.dims": _YES,
    "sequence_batching.state.initial_state.zero_data": _YES,
    "sequence_batching.state.initial_state.data_file": _YES,
    "sequence_batching.state.initial_state.name": _YES,
    "sequence_batching.state.use_same_buffer_for_input_output": Field(
        "emulated", "saves a copy on a GPU; states lie in host memory here"
    ),
    "sequence_batching.state.use_growable_memory": Field(
        "emulated", "saves memory on a GPU; a state here is as large as it is"
    ),
    "sequence_batching.iterative_sequence": Field("refused", "for backends that put a request back in its queue"),
    "ensemble_scheduling.step.model_name": _YES,
    "ensemble_scheduling.step.model_version": _YES,
    "ensemble_scheduling.step.input_map": _YES,
    "ensemble_scheduling.step.output_map": _YES,
    "ensemble_scheduling.step.model_namespace": Field("refused", "there is one name space here; leave it out"),
    "ensemble_scheduling.max_inflight_requests": Field(
        "honoured", "requests of the ensemble that run at once; further ones wait at its entry"
    ),
    "instance_group.name": _YES,
    "instance_group.kind": Field("honoured", "`KIND_MODEL` is refused"),
    "instance_group.count": _YES,
    "instance_group.rate_limiter.resources.name": _RATE_LIMIT,
    "instance_group.rate_limiter.resources.global": _RATE_LIMIT,
    "instance_group.rate_limiter.resources.count": _RATE_LIMIT,
    "instance_group.rate_limiter.priority": _RATE_LIMIT,
    "instance_group.gpus": Field("honoured", "the first GPU only"),
    "instance_group.secondary_devices.kind": Field("refused", "NVDLA cores are not used; leave it out"),
    "instance_group.secondary_devices.device_id": Field("refused", "NVDLA cores are not used; leave it out"),
    "instance_group.profile": Field("refused", "a plan runs with its first optimization profile"),
    "instance_group.passive": Field("refused", "an instance that never runs; leave the group out"),
    "instance_group.host_policy": Field("refused", "pin the whole server to its cores instead"),
    "default_model_filename": _YES,
    "cc_model_filenames": Field("honoured", "of instances on a GPU"),
    "metric_tags": _YES,
    "parameters": Field("honoured", "by key; see the table of parameters"),
    "model_warmup.name": Field("honoured", "an error names it"),
    "model_warmup.batch_size": Field("honoured", "of a Python model: requests of one row, in one call"),
    "model_warmup.inputs.data_type": _YES,
    "model_warmup.inputs.dims": _YES,
    "model_warmup.inputs.zero_data": _YES,
    "model_warmup.inputs.random_data": _YES,
    "model_warmup.inputs.input_data_file": _YES,
    "model_warmup.count": _YES,
    "model_operations.op_library_filename": Field("refused", "foreign code is not loaded into the server"),
    "model_transaction_policy.decoupled": Field("honoured", "of Python models and of ensembles over them"),
    "model_repository_agents.agents.name": Field("refused", "agents are shared libraries of Triton's; leave them out"),
    "model_repository_agents.agents.parameters": Field("refused", "see the agent's name"),
    "response_cache.enable": Field("honoured", "with the flag `--cache-config local,size=BYTES`"),
    "model_metrics.metric_control.metric_identifier.family": Field(
        "honoured", "`nv_inference_first_response_histogram_ms`; no other has buckets to choose"
    ),
    "model_metrics.metric_control.histogram_options.buckets": Field(
        "honoured", "with the flag `--metrics-config histogram_latencies=true`"
    ),
}


# As `difflib` measures it: one letter too many, too few or wrong in a key of six.
_SLIP_RATIO = 0.83

# Keys of `parameters` that this server or a backend of Triton's reads; any other key is the user's own.
PARAMETERS: Mapping[str, Mapping[str, Field]] = {
    "any": {
        "slo_ms": Field("honoured", "ours: milliseconds in which a request is to be answered"),
        "isolation": Field(
            "honoured",
            "ours: `process` gives each instance a process of its own; `shared`, with the flag `--shared-engines`, one "
            "that several servers use",
        ),
    },
    "onnxruntime": {
        "intra_op_thread_count": _YES,
        "inter_op_thread_count": _YES,
        "execution_mode": _YES,
        "enable_mem_arena": _YES,
        "enable_mem_pattern": _YES,
        "memory.enable_memory_arena_shrinkage": _YES,
        "session.use_device_allocator_for_initializers": _YES,
        "share_session_between_instances": Field("emulated", "each instance has its own session; it costs memory"),
        "cudnn_conv_algo_search": _YES,
        "cudnn_conv_use_max_workspace": _YES,
        "gpu_mem_limit": _YES,
        "arena_extend_strategy": _YES,
        "do_copy_in_default_stream": _YES,
        "tunable_op_enable": _YES,
    },
    "openvino": {
        "TARGET_DEVICE": Field("honoured", "`CPU`; any other is refused"),
        "INFERENCE_NUM_THREADS": _YES,
        "COMPILATION_NUM_THREADS": _YES,
        "HINT_BF16": _YES,
        "NUM_STREAMS": _YES,
        "SKIP_OV_DYNAMIC_BATCHSIZE": Field("emulated", "batches are never padded to a fixed size here"),
        "ENABLE_BATCH_PADDING": Field("refused", "give the model an open batch dimension"),
        "RESHAPE_IO_LAYOUTS": Field("refused", "convert the model with the layout that clients send"),
        "CPU_EXTENSION_PATH": Field("refused", "foreign code is not loaded into the server"),
    },
    "tensorrt": {
        "execution_context_allocation_strategy": Field("emulated", "the library's own strategy; a matter of memory"),
    },
    "python": {
        "EXECUTION_ENV_PATH": Field("refused", "install what the model needs into the server's environment"),
        "FORCE_CPU_ONLY_INPUT_TENSORS": Field("emulated", "tensors are always in host memory"),
    },
}


def set_parameters(config: ModelConfig) -> dict[str, Field]:
    """The keys of `parameters` that have a meaning to the model's backend, or to any while that is not known yet.

    And those that are nearly one of them, because a slip of the pen would silently be a key of the user's own.
    """
    backend = config.backend or BACKEND_OF_PLATFORM.get(config.platform, "")
    known: dict[str, Field] = {}
    for name, table in PARAMETERS.items():
        known |= table if name == "any" or backend in ("", name) else {}
    found = {key: known.get(key) or _slip(key, known) for key in sorted(config.parameters)}
    return {key: field for key, field in found.items() if field is not None}


def _slip(key: str, known: Iterable[str]) -> Field | None:
    names = {name.casefold(): name for name in known}
    near = get_close_matches(key.casefold(), names, n=1, cutoff=_SLIP_RATIO)
    if not near:
        return None
    return Field("emulated", f"a key of your own, which changes nothing here; did you mean `{names[near[0]]}`?")


def standing_of(path: str) -> Field:
    """What becomes of a field or of an empty message, which asks for the defaults of what is in it."""
    if path in FIELDS:
        return FIELDS[path]
    inside = [field for name, field in FIELDS.items() if name.startswith(f"{path}.")]
    return next((field for field in inside if field.standing != "refused"), inside[0] if inside else _UNKNOWN)
