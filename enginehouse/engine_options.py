"""What a configuration asks of the library behind its engine: read and checked once, applied at the library's door.

The keys and their values are those of the ONNX Runtime and the OpenVINO backend of Triton.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import ModelConfig

_TRUE, _FALSE = ("1", "true"), ("0", "false")
_GRAPH_LEVELS = (-1, 0, 1, 2)
_NUMBERED = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
# What the CUDA provider may be told by the model's own parameters, and what by the accelerator's.
_CUDA_PARAMETERS = (
    "gpu_mem_limit",
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream",
    "tunable_op_enable",
)
_CUDA_OPTIONS = (
    *_CUDA_PARAMETERS,
    "cudnn_conv1d_pad_to_nc1d",
    "fuse_conv_bias",
    "prefer_nhwc",
    "tunable_op_tuning_enable",
    "use_ep_level_unified_stream",
    "use_tf32",
)
# Triton's names, and the provider's where it has another one.
_TENSORRT_OPTIONS = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
    **{
        name: name
        for name in (
            "trt_auxiliary_streams",
            "trt_build_heuristics_enable",
            "trt_builder_optimization_level",
            "trt_context_memory_sharing_enable",
            "trt_cuda_graph_enable",
            "trt_engine_cache_enable",
            "trt_engine_cache_path",
            "trt_engine_cache_prefix",
            "trt_force_sequential_engine_build",
            "trt_layer_norm_fp32_fallback",
            "trt_max_partition_iterations",
            "trt_min_subgraph_size",
            "trt_profile_max_shapes",
            "trt_profile_min_shapes",
            "trt_profile_opt_shapes",
            "trt_sparsity_enable",
            "trt_tactic_sources",
            "trt_timing_cache_enable",
        )
    },
}
_PRECISION_MODES = {"FP32": "", "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
_GPU_ACCELERATORS, _CPU_ACCELERATORS = ("tensorrt", "cuda"), ("openvino",)


@dataclass(slots=True, frozen=True)
class SessionOptions:
    """How ONNX Runtime is to run a graph; what is None stays as the library has it.

    Attributes:
        graph_level: how far it rewrites the graph: 0 all it can, 1 extended, -1 basic, 2 not at all.
        is_parallel: branches of the graph run at once, on `inter_op_threads` (0: as many as the library likes).
        session_entries: by the library's own keys.
        run_entries: the same, told at each run.
    """

    graph_level: int = 0
    is_parallel: bool = False
    inter_op_threads: int = 1
    memory_arena: bool | None = None
    memory_pattern: bool | None = None
    session_entries: Mapping[str, str] = field(default_factory=dict)
    run_entries: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class EngineOptions:
    """What a configuration asks of whichever library serves it.

    Attributes:
        cuda: options of ONNX Runtime's CUDA provider.
        tensorrt: options of its TensorRT provider; None does not ask for that provider.
        is_openvino: an ONNX file is to run in OpenVINO on a CPU.
        openvino: properties of OpenVINO's CPU device.
        precision_hint: what OpenVINO computes float layers in; empty leaves it to the engine's own default.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    cuda: Mapping[str, str] = field(default_factory=dict)
    tensorrt: Mapping[str, str] | None = None
    is_openvino: bool = False
    openvino: Mapping[str, str] = field(default_factory=dict)
    precision_hint: str = ""


def engine_options_from_config(config: ModelConfig) -> EngineOptions:
    """Read `parameters` and `optimization`; the configuration knows its backend.

    Raises:
        InvalidInput: a value that its key does not take.
        NotSupported: an accelerator, or one of its parameters, that is not served here.
    """
    if config.backend == "openvino":
        return _openvino_options(config)
    if config.backend != "onnxruntime":
        return EngineOptions()
    accelerators = config.optimization.execution_accelerators
    gpu = {one.name: dict(one.parameters) for one in accelerators.gpu_execution_accelerator}
    cpu = {one.name: dict(one.parameters) for one in accelerators.cpu_execution_accelerator}
    _check_accelerators(config, "gpu_execution_accelerator", gpu, _GPU_ACCELERATORS)
    _check_accelerators(config, "cpu_execution_accelerator", cpu, _CPU_ACCELERATORS)
    return EngineOptions(
        session=_session_options(config),
        cuda=_cuda_options(config, gpu.get("cuda", {})),
        tensorrt=_tensorrt_options(config, gpu["tensorrt"]) if "tensorrt" in gpu else None,
        is_openvino="openvino" in cpu,
    )


def _session_options(config: ModelConfig) -> SessionOptions:
    level = config.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        raise InvalidInput(f"model '{config.name}': optimization.graph.level is {level}; -1, 0, 1 or 2 expected.")
    is_parallel = _number(config, "execution_mode", at_most=1) == 1
    inter_op_threads = _number(config, "inter_op_thread_count")
    return SessionOptions(
        graph_level=level,
        is_parallel=is_parallel,
        inter_op_threads=inter_op_threads or (0 if is_parallel else 1),
        memory_arena=_switch(config, "enable_mem_arena"),
        memory_pattern=_switch(config, "enable_mem_pattern"),
        session_entries=_entries(config, "session.use_device_allocator_for_initializers"),
        run_entries=_entries(config, "memory.enable_memory_arena_shrinkage"),
    )


def _cuda_options(config: ModelConfig, of_accelerator: Mapping[str, str]) -> dict[str, str]:
    """The provider's own options, from the accelerator's parameters and from the model's, which are the older way."""
    unknown = sorted(set(of_accelerator).difference(_CUDA_OPTIONS))
    if unknown:
        raise NotSupported(
            f"model '{config.name}': parameter '{unknown[0]}' of the accelerator cuda is not supported; "
            f"expected one of {', '.join(_CUDA_OPTIONS)}."
        )
    options = {key: text for key in _CUDA_PARAMETERS if (text := _text(config, key))}
    for key, names in _NUMBERED.items():
        if key in options:
            options[key] = names[_number(config, key, at_most=len(names) - 1)]
    return {**options, **of_accelerator}


def _tensorrt_options(config: ModelConfig, parameters: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, text in sorted(parameters.items()):
        if key == "precision_mode":
            if text not in _PRECISION_MODES:
                raise InvalidInput(
                    f"model '{config.name}': precision_mode is '{text}'; one of {', '.join(_PRECISION_MODES)} expected."
                )
            options |= {switch: "1" for switch in [_PRECISION_MODES[text]] if switch}
        elif key in _TENSORRT_OPTIONS:
            options[_TENSORRT_OPTIONS[key]] = text
        else:
            raise NotSupported(
                f"model '{config.name}': parameter '{key}' of the accelerator tensorrt is not supported; "
                f"expected precision_mode or one of {', '.join(sorted(_TENSORRT_OPTIONS))}."
            )
    return options


def _openvino_options(config: ModelConfig) -> EngineOptions:
    device = _text(config, "TARGET_DEVICE")
    if device not in ("", "CPU"):
        raise NotSupported(f"model '{config.name}': TARGET_DEVICE is '{device}'; OpenVINO runs on the CPU here.")
    properties = {
        key: str(number) for key in ("COMPILATION_NUM_THREADS", "NUM_STREAMS") if (number := _number(config, key))
    }
    hint = _text(config, "HINT_BF16")
    if hint not in ("", "YES", "NO"):
        raise InvalidInput(f"model '{config.name}': HINT_BF16 is '{hint}'; YES or NO expected.")
    return EngineOptions(openvino=properties, precision_hint="bf16" if hint == "YES" else "")


def _check_accelerators(
    config: ModelConfig, where: str, given: Mapping[str, Mapping[str, str]], known: tuple[str, ...]
) -> None:
    for name in given:
        if name not in known:
            raise NotSupported(
                f"model '{config.name}': {where} '{name}' is not supported; expected one of {', '.join(known)}."
            )
    if given.get("openvino"):
        raise NotSupported(f"model '{config.name}': the accelerator openvino takes no parameters here.")


def _text(config: ModelConfig, key: str) -> str:
    return config.parameters[key].string_value if key in config.parameters else ""


def _number(config: ModelConfig, key: str, at_most: int = 1 << 20) -> int:
    """A count, or 0 where the key is not given."""
    text = _text(config, key)
    if not text:
        return 0
    if not text.isdecimal() or int(text) > at_most:
        raise InvalidInput(
            f"model '{config.name}': parameters['{key}'] is '{text}'; a number from 0 to {at_most} expected."
        )
    return int(text)


def _switch(config: ModelConfig, key: str) -> bool | None:
    text = _text(config, key)
    if not text:
        return None
    if text.lower() not in _TRUE + _FALSE:
        raise InvalidInput(f"model '{config.name}': parameters['{key}'] is '{text}'; true, false, 1 or 0 expected.")
    return text.lower() in _TRUE


def _entries(config: ModelConfig, key: str) -> dict[str, str]:
    return {key: text} if (text := _text(config, key)) else {}
