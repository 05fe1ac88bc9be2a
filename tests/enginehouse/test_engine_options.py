"""What `parameters` and `optimization` ask of a library is read, checked, and reaches the library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from enginehouse.config_fields import PARAMETERS, set_parameters
from enginehouse.config_rules import check_config
from enginehouse.engine_options import EngineOptions, SessionOptions, engine_options_from_config
from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.model_config import config_from_text, emulated_fields, refuse_unhonoured
from enginehouse.onnxruntime_engine import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER, OnnxRuntimeEngine
from enginehouse.open_engine import open_engine
from enginehouse.proto.model_config_pb2 import ModelConfig

IdentityModel = Callable[..., onnx.ModelProto]
ONNX = "backend: 'onnxruntime' "
OPENVINO = "backend: 'openvino' "


def parameter(key: str, text: str) -> str:
    return f"parameters {{ key: '{key}' value {{ string_value: '{text}' }} }} "


def accelerator(where: str, name: str, **parameters: str) -> str:
    inside = "".join(f"parameters {{ key: '{key}' value: '{text}' }}" for key, text in parameters.items())
    return (
        f"optimization {{ execution_accelerators {{ {where}_execution_accelerator {{ name: '{name}' {inside} }} }} }}"
    )


def options_of(text: str) -> EngineOptions:
    config = config_from_text(text, "m")
    refuse_unhonoured(config)
    return engine_options_from_config(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", SessionOptions()),
        ("optimization { graph { level: -1 } }", SessionOptions(graph_level=-1)),
        (parameter("execution_mode", "1"), SessionOptions(is_parallel=True, inter_op_threads=0)),
        (
            parameter("execution_mode", "1") + parameter("inter_op_thread_count", "3"),
            SessionOptions(is_parallel=True, inter_op_threads=3),
        ),
        (parameter("enable_mem_arena", "False"), SessionOptions(memory_arena=False)),
        (parameter("enable_mem_pattern", "1"), SessionOptions(memory_pattern=True)),
        (
            parameter("memory.enable_memory_arena_shrinkage", "cpu:0"),
            SessionOptions(run_entries={"memory.enable_memory_arena_shrinkage": "cpu:0"}),
        ),
        (
            parameter("session.use_device_allocator_for_initializers", "1"),
            SessionOptions(session_entries={"session.use_device_allocator_for_initializers": "1"}),
        ),
    ],
)
def test_what_is_asked_of_a_session_is_read(text: str, expected: SessionOptions) -> None:
    assert options_of(ONNX + text).session == expected


def test_options_of_the_cuda_provider_come_from_both_places() -> None:
    text = parameter("cudnn_conv_algo_search", "1") + parameter("gpu_mem_limit", "1000")
    options = options_of(ONNX + text + accelerator("gpu", "cuda", gpu_mem_limit="2000", use_tf32="0"))
    assert options.cuda == {"cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": "2000", "use_tf32": "0"}
    assert options.tensorrt is None


def test_the_tensorrt_accelerator_is_asked_for_with_the_providers_own_names() -> None:
    text = accelerator("gpu", "tensorrt", precision_mode="FP16", max_workspace_size_bytes="1024")
    assert options_of(ONNX + text).tensorrt == {"trt_fp16_enable": "1", "trt_max_workspace_size": "1024"}
    assert options_of(ONNX + accelerator("gpu", "tensorrt", precision_mode="FP32")).tensorrt == {}


def test_openvino_takes_its_own_words() -> None:
    text = parameter("NUM_STREAMS", "2") + parameter("HINT_BF16", "YES") + parameter("TARGET_DEVICE", "CPU")
    options = options_of(OPENVINO + text)
    assert (options.openvino, options.precision_hint) == ({"NUM_STREAMS": "2"}, "bf16")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (ONNX + "optimization { graph { level: 3 } }", InvalidInput, "graph.level is 3; -1, 0, 1 or 2 expected"),
        (
            ONNX + parameter("execution_mode", "2"),
            InvalidInput,
            r"\['execution_mode'\] is '2'; a number from 0 to 1 exp",
        ),
        (ONNX + parameter("inter_op_thread_count", "-1"), InvalidInput, "is '-1'; a number from 0"),
        (ONNX + parameter("enable_mem_arena", "maybe"), InvalidInput, "is 'maybe'; true, false, 1 or 0 expected"),
        (ONNX + parameter("arena_extend_strategy", "2"), InvalidInput, "is '2'; a number from 0 to 1 expected"),
        (ONNX + accelerator("gpu", "xla"), NotSupported, "gpu_execution_accelerator 'xla' is not supported"),
        (ONNX + accelerator("cpu", "tensorrt"), NotSupported, "'tensorrt' is not supported; expected one of openvino"),
        (ONNX + accelerator("gpu", "cuda", device_id="1"), NotSupported, "'device_id' of the accelerator cuda is not"),
        (
            ONNX + accelerator("gpu", "tensorrt", trt_extra_plugin_lib_paths="x"),
            NotSupported,
            "of the accelerator tensor",
        ),
        (ONNX + accelerator("gpu", "tensorrt", precision_mode="INT4"), InvalidInput, "precision_mode is 'INT4'"),
        (ONNX + accelerator("cpu", "openvino", a="b"), NotSupported, "does not honour .*cpu_.*parameters"),
        (
            OPENVINO + parameter("TARGET_DEVICE", "GPU"),
            NotSupported,
            "TARGET_DEVICE is 'GPU'; OpenVINO runs on the CPU",
        ),
        (OPENVINO + parameter("HINT_BF16", "1"), InvalidInput, "HINT_BF16 is '1'; YES or NO expected"),
        (OPENVINO + parameter("CPU_EXTENSION_PATH", "x"), NotSupported, r"parameters\['CPU_EXTENSION_PATH'\]"),
    ],
)
def test_what_is_not_served_is_refused_by_name(text: str, error: type[Error], message: str) -> None:
    with pytest.raises(error, match=message):
        options_of(text)


def test_a_key_means_something_only_to_its_own_backend() -> None:
    text = parameter("NUM_STREAMS", "my own") + parameter("CPU_EXTENSION_PATH", "my own")
    assert options_of(ONNX + text) == EngineOptions()
    assert set_parameters(config_from_text(ONNX + text, "m")) == {}
    assert list(set_parameters(config_from_text(text, "m"))) == ["CPU_EXTENSION_PATH", "NUM_STREAMS"]
    assert options_of("backend: 'tensorrt'" + parameter("execution_mode", "my own")) == EngineOptions()


@pytest.mark.parametrize("key", ["slo_m", "slo-ms", "SLO_MS", "slo_msec"])
def test_a_slip_of_the_pen_is_told_and_stays_a_key_of_the_users_own(key: str) -> None:
    (told,) = emulated_fields(config_from_text(ONNX + parameter(key, "20"), "m"))
    assert told == f"parameters['{key}'] (a key of your own, which changes nothing here; did you mean `slo_ms`?)"
    assert options_of(ONNX + parameter(key, "20")) == EngineOptions()


@pytest.mark.parametrize("key", ["labels", "slo", "threads"])
def test_a_key_that_is_like_no_other_is_nobodys_business(key: str) -> None:
    assert set_parameters(config_from_text(ONNX + parameter(key, "20"), "m")) == {}


def test_every_honoured_key_changes_something_or_is_read_elsewhere() -> None:
    read_with_the_placement = {"intra_op_thread_count", "INFERENCE_NUM_THREADS", "TARGET_DEVICE"}
    values = {"HINT_BF16": "YES", "execution_mode": "1"}
    of_backends = {name: table for name, table in PARAMETERS.items() if name != "any"}
    for backend, table in of_backends.items():
        for key, field in table.items():
            if field.standing == "honoured" and key not in read_with_the_placement:
                config = ModelConfig(name="m", backend=backend)
                config.parameters[key].string_value = values.get(key, "1")
                if key == "inter_op_thread_count":
                    config.parameters[key].string_value = "2"
                assert engine_options_from_config(config) != EngineOptions(), key


@pytest.fixture
def path(tmp_path: Path, identity_model: IdentityModel) -> Path:
    onnx.save(identity_model(onnx.TensorProto.FLOAT), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_session_is_made_as_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = onnxruntime.InferenceSession

    def watched(file: str, options: Any, providers: Any) -> Any:
        made.append(options)
        return real(file, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    text = (
        "optimization { graph { level: 1 } }"
        + parameter("execution_mode", "1")
        + parameter("inter_op_thread_count", "2")
        + parameter("enable_mem_arena", "0")
        + parameter("enable_mem_pattern", "false")
        + parameter("session.use_device_allocator_for_initializers", "1")
    )
    engine = open_engine(path, "onnxruntime_onnx", 1, options=options_of(ONNX + text))
    (options,) = made
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (options.inter_op_num_threads, options.enable_cpu_mem_arena, options.enable_mem_pattern) == (2, False, False)
    assert options.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert engine.run({"INPUT0": rows})["OUTPUT0"].tolist() == rows.tolist()


def test_a_run_entry_reaches_the_library(path: Path) -> None:
    wanted = SessionOptions(run_entries={"memory.enable_memory_arena_shrinkage": "no device"})
    engine = OnnxRuntimeEngine(path, wanted=wanted)
    with pytest.raises(Error, match="no device"):
        engine.run({"INPUT0": np.zeros((1, 3), np.float32)})


def test_an_onnx_file_runs_in_openvino_where_that_is_asked_for(path: Path) -> None:
    options = options_of(ONNX + accelerator("cpu", "openvino"))
    assert type(open_engine(path, "onnxruntime_onnx", 1, options=options)).__name__ == "OpenVinoEngine"
    assert type(open_engine(path, "onnxruntime_onnx", 1)).__name__ == "OnnxRuntimeEngine"


@pytest.mark.parametrize(
    ("name", "provider", "expected"),
    [("cuda", CUDA_PROVIDER, CUDA_PROVIDER), ("tensorrt", CUDA_PROVIDER, TENSORRT_PROVIDER)],
)
def test_an_accelerator_that_is_not_installed_is_named(path: Path, name: str, provider: str, expected: str) -> None:
    if expected in onnxruntime.get_available_providers():
        pytest.skip(f"{expected} is installed")
    options = options_of(ONNX + accelerator("gpu", name))
    with pytest.raises(NotSupported, match=f"execution provider {expected} is not in the installed"):
        open_engine(path, "onnxruntime_onnx", 1, provider, options=options)
    open_engine(path, "onnxruntime_onnx", 1, CPU_PROVIDER, options=options).close()


def test_a_complete_configuration_with_options_keeps_the_rules() -> None:
    check_config(config_from_text(ONNX + accelerator("gpu", "tensorrt"), "m"))
