"""`config.pbtxt`: the real text format, nothing unknown, nothing ignored in silence."""

from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.model_config import (
    config_from_json,
    config_from_specs,
    config_from_text,
    differences,
    engine_shape,
    input_specs,
    output_specs,
    read_config,
    refuse_unhonoured,
    text_from_config,
    versions_to_serve,
)
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.tensor import TensorSpec

FULL = """
# What operators write: comments, lists in brackets and repeated fields, maps, enum names.
name: "m"  platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "a" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1 ] },
  { name: "b" data_type: TYPE_STRING dims: 1 reshape: { shape: [ ] } }
]
output { name: "c" data_type: TYPE_BF16 dims: [ 4 ] label_filename: "labels.txt" }
output { name: "d", data_type: TYPE_BOOL, dims: [ 2 ], reshape { shape: [ 2, 1 ] } }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  default_queue_policy { default_timeout_microseconds: 5 allow_timeout_override: true max_queue_size: 16 }
}
instance_group [ { name: "cpus" count: 2 kind: KIND_CPU } ]
parameters { key: "slo_ms" value: { string_value: "25" } }
parameters: [ { key: "x" value { string_value: 'single' } } ]
version_policy: { specific: { versions: [ 1, 3 ] } }
optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: false } }
"""


def test_what_operators_write_is_read() -> None:
    config = config_from_text(FULL, "m")
    assert config.max_batch_size == 8
    assert [str(spec) for spec in input_specs(config)] == ["a FP32 [-1, 3, -1]", "b BYTES [-1, 1]"]
    assert [str(spec) for spec in output_specs(config)] == ["c BF16 [-1, 4]", "d BOOL [-1, 2]"]
    assert engine_shape(config, config.input[1]) == (-1,)
    assert engine_shape(config, config.output[1]) == (-1, 2, 1)
    assert {key: value.string_value for key, value in config.parameters.items()} == {"slo_ms": "25", "x": "single"}
    refuse_unhonoured(config)


def test_without_a_batch_the_dims_are_the_whole_shape() -> None:
    config = config_from_text('input { name: "a" data_type: TYPE_INT64 dims: [ 2, 3 ] }', "m")
    assert input_specs(config) == (TensorSpec("a", DTYPES["INT64"], (2, 3)),)
    assert engine_shape(config, config.input[0]) == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 1\nmax_latency: 3", '2:1 : Message type "inference.ModelConfig" has no field named'),
        ("max_batch_size: many", "1:17"),
        ("input { name: 'a' data_type: TYPE_FLOAT }", "has no value named TYPE_FLOAT."),
        ("input {", "is not a model configuration"),
        ("max_batch_size: 99999999999", "out of range"),
        ("max_batch_size: 1 max_batch_size: 2", "should not have multiple"),
        ('name: "other"', "names the model 'other', its directory is 'm'"),
        ("\0", "is not a model configuration"),
        ("dynamic_batching { } sequence_batching { }", "is specified along with"),
    ],
)
def test_a_mistake_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        config_from_text(text, "m", "repo/m/config.pbtxt")
    assert str(refusal.value).startswith("repo/m/config.pbtxt ")
    assert message in str(refusal.value)
    assert not str(refusal.value).endswith("..")


@given(st.text(max_size=40) | st.text(alphabet='abinput{}[]:"<> 0-9\n,.;', max_size=60))
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    try:
        config = config_from_text(text, "m")
    except InvalidInput:
        return
    assert config.name == "m"


def test_a_configuration_is_read_from_its_directory_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert read_config(tmp_path / "m") == ModelConfig(name="m")
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 3")
    assert read_config(tmp_path / "m") == ModelConfig(name="m", max_batch_size=3)
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read as text"):
        read_config(tmp_path / "m")


def test_the_json_form_takes_numbers_as_text_and_both_spellings_of_names() -> None:
    config = config_from_json('{"max_batch_size": "16", "dynamicBatching": {}}', "m")
    assert config.max_batch_size == 16
    assert config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '"x"',
        "{",
        '{"nobody": 1}',
        '{"input": 3}',
        "[" * 100_000,
        '{"max_batch_size": 1e99}',
        '{"name": "x"}',
    ],
)
def test_json_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="the config parameter"):
        config_from_json(text, "m")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("input { name: 'a' data_type: 99 dims: 1 }", "input.data_type"),
        ("instance_group { kind: 99 }", "instance_group.kind"),
        ("batch_input { kind: 99 }", "batch_input.kind"),
        (
            "sequence_batching { control_input { control { kind: 99 } } }",
            "sequence_batching.control_input.control.kind",
        ),
        ("sequence_batching { state { data_type: 99 } }", "sequence_batching.state.data_type"),
        ("model_warmup { inputs { key: 'x' value { data_type: 99 } } }", "model_warmup.inputs.data_type"),
    ],
)
def test_a_number_that_an_enum_has_no_name_for_is_refused(text: str, path: str) -> None:
    with pytest.raises(InvalidInput, match=f"config.pbtxt: unknown {path} 99; expected one of [A-Z]+_"):
        config_from_text(text, "m")
    as_json = json_format.MessageToJson(text_format.Parse(text, ModelConfig()))
    with pytest.raises(InvalidInput, match=f"the config parameter: unknown {path} 99; expected one of [A-Z]+_"):
        config_from_json(as_json, "m")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [10]),
        ("version_policy { latest { } }", [10]),
        ("version_policy { latest { num_versions: 2 } }", [3, 10]),
        ("version_policy { latest { num_versions: 99 } }", [1, 3, 10]),
        ("version_policy { all { } }", [1, 3, 10]),
        ("version_policy { specific { versions: [ 3, 1, 3 ] } }", [1, 3]),
        ("version_policy { specific { } }", []),
    ],
)
def test_the_version_policy_chooses(policy: str, expected: list[int]) -> None:
    assert versions_to_serve(config_from_text(policy, "m"), [10, 1, 3]) == expected


def test_a_listed_version_that_is_missing_is_named() -> None:
    config = config_from_text("version_policy { specific { versions: [ 1, 2 ] } }", "m")
    with pytest.raises(InvalidInput, match=r"names version 2; there are \[1, 3\]"):
        versions_to_serve(config, [3, 1])


def test_a_graph_is_described_with_its_batch_taken_off() -> None:
    inputs = [TensorSpec("x", DTYPES["FP16"], (-1, 3, -1))]
    outputs = [TensorSpec("y", DTYPES["BYTES"], (-1,))]
    config = config_from_specs("m", "onnxruntime_onnx", inputs, outputs, 8, {"slo_ms": "5"})
    assert input_specs(config) == tuple(inputs)
    assert output_specs(config) == (TensorSpec("y", DTYPES["BYTES"], (-1, 1)),)
    assert engine_shape(config, config.output[0]) == (-1,)
    assert config.HasField("dynamic_batching")
    assert config.parameters["slo_ms"].string_value == "5"
    refuse_unhonoured(config)


@pytest.mark.parametrize("size", [0, 1])
def test_a_model_that_cannot_join_rows_gets_no_batcher(size: int) -> None:
    spec = TensorSpec("x", DTYPES["FP32"], (-1, 2))
    assert not config_from_specs("m", "p", [spec], [spec], size, {}).HasField("dynamic_batching")


def test_differences_are_told_field_by_field() -> None:
    published = config_from_text("max_batch_size: 8 dynamic_batching { } parameters { key: 'a' value { } }", "m")
    built = config_from_text("max_batch_size: 4 parameters { key: 'a' value { } } version_policy { all { } }", "m")
    assert differences(published, published) == []
    assert differences(published, built) == [
        "version_policy: nothing is published, version_policy { all { } } was built",
        "max_batch_size: max_batch_size: 8 is published, max_batch_size: 4 was built",
        "dynamic_batching: dynamic_batching { } is published, nothing was built",
    ]


def test_what_is_written_is_read_back() -> None:
    config = config_from_text(FULL, "m")
    assert config_from_text(text_from_config(config), "m") == config


def test_an_independent_reader_agrees_in_the_same_process() -> None:
    from tritonclient.grpc import model_config_pb2

    config = config_from_text(FULL, "m")
    theirs = text_format.Parse(text_from_config(config), model_config_pb2.ModelConfig())
    assert json_format.MessageToDict(theirs) == json_format.MessageToDict(config)
    assert theirs.SerializeToString(deterministic=True) == config.SerializeToString(deterministic=True)
