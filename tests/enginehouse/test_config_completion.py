"""A configuration is filled in as Triton fills it in, and refused where it contradicts the engine."""

import pytest

from enginehouse.config_completion import Completion, complete_config, complete_platform, model_file
from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text, refuse_unhonoured
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup
from enginehouse.tensor import TensorSpec

X = TensorSpec("x", DTYPES["FP32"], (-1, 3))
Y = TensorSpec("y", DTYPES["INT64"], (-1,))


def completed(text: str, inputs: tuple[TensorSpec, ...] = (X,), outputs: tuple[TensorSpec, ...] = (Y,)) -> ModelConfig:
    config = config_from_text(text, "m")
    refuse_unhonoured(config)
    complete_platform(config, ["model.onnx"])
    complete_config(config, inputs, outputs)
    return config


def test_an_empty_configuration_is_completed_from_the_engine() -> None:
    assert completed("") == config_from_text(
        """
        platform: "onnxruntime_onnx" backend: "onnxruntime" default_model_filename: "model.onnx"
        version_policy { latest { num_versions: 1 } }
        max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: 3 }
        output { name: "y" data_type: TYPE_INT64 dims: 1 reshape { } }
        instance_group { name: "m" kind: KIND_CPU count: 1 }
        dynamic_batching { preferred_batch_size: 4 }
        optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
        """,
        "m",
    )


def test_a_completed_configuration_is_honoured_and_stays_as_it_is() -> None:
    config = completed("")
    again = ModelConfig()
    again.CopyFrom(config)
    refuse_unhonoured(again)
    complete_platform(again, [])
    complete_config(again, (X,), (Y,))
    assert again == config


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((TensorSpec("x", DTYPES["FP32"], (2, 3)),), (Y,)),
        ((X,), (TensorSpec("y", DTYPES["FP32"], ()),)),
        ((), (Y,)),
    ],
    ids=["a fixed batch", "a scalar output", "no input"],
)
def test_without_a_batch_everywhere_nothing_is_batched(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    config = completed("", inputs, outputs)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")


def test_what_is_given_stays() -> None:
    config = completed(
        "max_batch_size: 16 instance_group [ { count: 3 name: 'mine' }, { kind: KIND_GPU } ] version_policy { all { } }"
    )
    assert [(group.name, group.count) for group in config.instance_group] == [("mine", 3), ("m_1", 1)]
    assert config.instance_group[1].kind == ModelInstanceGroup.KIND_GPU
    assert config.version_policy.HasField("all")


def test_gpus_make_an_automatic_group_a_gpu_group() -> None:
    assert completed("instance_group { gpus: 0 }").instance_group[0].kind == ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ("", ["model.onnx", "notes.txt"], ("onnxruntime_onnx", "onnxruntime", "model.onnx")),
        ("", ["model.plan"], ("tensorrt_plan", "tensorrt", "model.plan")),
        ("backend: 'openvino'", ["model.onnx"], ("openvino", "openvino", "model.xml")),
        ("platform: 'onnxruntime_onnx'", [], ("onnxruntime_onnx", "onnxruntime", "model.onnx")),
        ("default_model_filename: 'model.plan'", ["model.onnx"], ("tensorrt_plan", "tensorrt", "model.plan")),
        ("default_model_filename: 'a.onnx'", ["model.onnx"], ("onnxruntime_onnx", "onnxruntime", "a.onnx")),
    ],
)
def test_platform_backend_and_file_follow_from_each_other(
    text: str, files: list[str], expected: tuple[str, str, str]
) -> None:
    config = config_from_text(text, "m")
    complete_platform(config, files)
    assert (config.platform, config.backend, config.default_model_filename) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has platform '' and files \['a'\]; expected one of onnxruntime_onnx, tensorrt_plan, openvino"),
        ("platform: 'pytorch_libtorch'", "has platform 'pytorch_libtorch'"),
        ("backend: 'pytorch'", "has platform 'pytorch'"),
        ("platform: 'onnxruntime_onnx' backend: 'tensorrt'", "onnxruntime_onnx does not run on tensorrt"),
        ("backend: 'tensorrt' default_model_filename: '../../other/1/model.plan'", "the name of a file in the version"),
        ("backend: 'tensorrt' default_model_filename: '..'", "the name of a file in the version"),
    ],
)
def test_a_platform_that_cannot_be_told_or_run_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        complete_platform(config_from_text(text, "m"), ["a"])


BATCH = "max_batch_size: 8 "
INPUT = "input { name: 'x' data_type: TYPE_FP32 dims: 3 } "
OUTPUT = "output { name: 'y' data_type: TYPE_INT64 dims: 1 reshape { } } "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: -1", "max_batch_size is -1; 0 or more"),
        (INPUT + "dynamic_batching { }", "dynamic_batching needs max_batch_size above 0"),
        (BATCH + "dynamic_batching { preferred_batch_size: [ 4, 9 ] }", r"preferred_batch_size 9 must lie in 1\.\.8"),
        (BATCH + "dynamic_batching { preferred_batch_size: 0 }", "preferred_batch_size 0 must lie"),
        ("instance_group { count: -2 }", "count must be 1 or more"),
        (BATCH + "instance_group { count: -2 }", "count must be 1 or more"),
        (BATCH + "input { name: 'z' data_type: TYPE_FP32 dims: 3 }", r"unexpected inference input 'z'; .* \['x'\]"),
        (BATCH + "output { name: 'z' data_type: TYPE_FP32 dims: 3 }", "unexpected inference output 'z'"),
        (BATCH + INPUT.replace("FP32", "FP16"), r"'x' is configured as FP16 \[-1, 3\]; the engine has FP32 \[-1, 3\]"),
        (BATCH + INPUT.replace("TYPE_FP32", "TYPE_INVALID"), "input 'x' has no data_type"),
        (BATCH + INPUT.replace("dims: 3", "dims: 4"), r"configured as FP32 \[-1, 4\]"),
        (BATCH + INPUT.replace("dims: 3", "dims: -1"), r"configured as FP32 \[-1, -1\]"),
        (BATCH + INPUT.replace("dims: 3", "dims: [ 3, 1 ]"), r"configured as FP32 \[-1, 3, 1\]"),
        (INPUT, r"configured as FP32 \[3\]; the engine has FP32 \[-1, 3\]"),
        (BATCH + INPUT + INPUT, "an input is configured more than once"),
        (BATCH + INPUT + OUTPUT + OUTPUT, "an output is configured more than once"),
        (BATCH + INPUT.replace("dims: 3", "dims: 4 reshape { shape: 3 }"), r"dims \[4\], which cannot be reshaped"),
        (BATCH + OUTPUT.replace("dims: 1", "dims: -1"), r"dims \[-1\], which cannot be reshaped to \[\]"),
    ],
)
def test_a_contradiction_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        completed(text)


def test_an_input_may_not_be_left_out_but_an_output_may() -> None:
    other = TensorSpec("z", DTYPES["FP32"], (-1, 2))
    assert [tensor.name for tensor in completed(BATCH + OUTPUT, (X,), (Y, other)).output] == ["y"]
    with pytest.raises(InvalidInput, match=r"leaves out the inputs \['z'\]"):
        completed(BATCH + INPUT, (X, other), (Y,))


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_batch_needs_an_open_dimension_in_the_engine(kind: str) -> None:
    fixed = TensorSpec("x", DTYPES["FP32"], (4, 3))
    with pytest.raises(
        InvalidInput, match=rf"{kind} 'x' is configured as FP32 \[-1, 3\]; the engine has FP32 \[4, 3\]"
    ):
        completed(BATCH, *(((fixed,), (Y,)) if kind == "input" else ((X,), (fixed,))))


def test_a_batch_needs_an_input_to_count() -> None:
    with pytest.raises(InvalidInput, match="max_batch_size needs an input"):
        completed(BATCH, (), (Y,))


def test_an_open_dimension_of_the_engine_takes_a_fixed_one_and_an_output_may_stay_open() -> None:
    wide = TensorSpec("x", DTYPES["FP32"], (-1, -1))
    assert completed(BATCH + INPUT, (wide,)).input[0].dims == [3]
    text = BATCH + "output { name: 'y' data_type: TYPE_FP32 dims: -1 }"
    assert completed(text, (X,), (TensorSpec("y", DTYPES["FP32"], (-1, 7)),)).output[0].dims == [-1]


def test_a_reshape_keeps_what_lies_between_open_dimensions() -> None:
    text = "input { name: 'x' data_type: TYPE_FP32 dims: [ 2, 3, -1, 4 ] reshape { shape: [ 6, -1, 2, 2 ] } }"
    completed(text, (TensorSpec("x", DTYPES["FP32"], (6, -1, 2, 2)),))


def test_the_largest_batch_of_a_model_that_does_not_say_it_can_be_told() -> None:
    completion = Completion({"": 7, "tensorrt": 2})
    config = config_from_text("", "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, (X,), (Y,), completion)
    assert config.max_batch_size == 7
    assert completion.max_batch_size("tensorrt") == 2
    unbatched = config_from_text("", "m")
    complete_platform(unbatched, ["model.onnx"])
    complete_config(unbatched, (X,), (Y,), Completion({"onnxruntime": 0}))
    assert (unbatched.max_batch_size, list(unbatched.input[0].dims)) == (0, [-1, 3])


@pytest.mark.parametrize(
    ("text", "batches"),
    [
        (BATCH, True),
        (BATCH + INPUT, True),
        (BATCH + INPUT + OUTPUT, False),
        ("max_batch_size: 1", False),
        (BATCH + "ensemble_scheduling { }", False),
    ],
    ids=["described nowhere", "described in part", "described whole", "one row at most", "another scheduler"],
)
def test_rows_are_joined_where_the_configuration_was_completed_and_names_no_scheduler(text: str, batches: bool) -> None:
    config = config_from_text(text, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, (X,), (Y,))
    assert config.HasField("dynamic_batching") == batches


def test_a_strict_server_completes_no_description() -> None:
    strict = Completion(is_strict=True)
    for text, missing in [("", "input and output"), (BATCH + INPUT, "output")]:
        with pytest.raises(InvalidInput, match=f"must specify {missing}: configurations are not completed"):
            complete_config(config_from_text(text, "m"), (X,), (Y,), strict)
    config = config_from_text(BATCH + INPUT + OUTPUT, "m")
    complete_config(config, (X,), (Y,), strict)
    assert config.instance_group[0].count == 1


def test_what_the_server_fills_in_is_neither_described_nor_missed() -> None:
    state = TensorSpec("state", DTYPES["FP32"], (-1, 2))
    start = TensorSpec("START", DTYPES["INT32"], (-1, 1))
    sequence = """max_batch_size: 8 sequence_batching {
        control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
        state { input_name: "state" output_name: "next" data_type: TYPE_FP32 dims: 2 }
    }"""
    config = config_from_text(sequence, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, (X, state, start), (Y, TensorSpec("next", DTYPES["FP32"], (-1, 2))))
    assert [tensor.name for tensor in config.input] == ["x"]
    assert [tensor.name for tensor in config.output] == ["y"]


def test_rows_of_unequal_length_lie_flat_in_the_engine() -> None:
    text = """max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
    output { name: "y" data_type: TYPE_FP32 dims: -1 }
    batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }
    batch_output { target_name: "y" source_input: "x" }"""
    flat = [TensorSpec(name, DTYPES["FP32"], (-1,)) for name in ("x", "n", "y")]
    config = config_from_text(text, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, flat[:2], flat[2:])
    with pytest.raises(InvalidInput, match=r"input 'x' is configured as FP32 \[-1\]; the engine has FP32 \[-1, 3\]"):
        complete_config(config, (X, flat[1]), flat[2:])


def test_a_gpu_may_have_a_file_of_its_own() -> None:
    text = "platform: 'tensorrt_plan' cc_model_filenames [ { key: '8.6' value: 'ampere.plan' } ]"
    config = config_from_text(text, "m")
    complete_platform(config, [])
    assert model_file(config, "8.6") == "ampere.plan"
    assert model_file(config, "9.0") == model_file(config, None) == "model.plan"
    config.cc_model_filenames["9.0"] = "../other.plan"
    with pytest.raises(InvalidInput, match=r"cc_model_filenames\['9.0'\] is '../other.plan'; the name of a file"):
        complete_platform(config, [])


def test_an_input_with_a_value_of_its_own_may_be_described_and_left_out() -> None:
    bias = TensorSpec("bias", DTYPES["FP32"], (-1, 3))
    described = BATCH + INPUT + "input { name: 'bias' data_type: TYPE_FP32 dims: 3 optional: true }"
    for text, names in [(BATCH, ["x"]), (described, ["x", "bias"])]:
        config = config_from_text(text, "m")
        complete_config(config, (X,), (Y,), optional=(bias,))
        assert [tensor.name for tensor in config.input] == names
    with pytest.raises(InvalidInput, match="unexpected inference input 'bias'"):
        complete_config(config_from_text(described, "m"), (X,), (Y,))
    with pytest.raises(InvalidInput, match="input 'x' is optional in the configuration, but the engine needs it"):
        complete_config(config_from_text(BATCH + INPUT.replace("dims", "optional: true dims"), "m"), (X,), (Y,))
