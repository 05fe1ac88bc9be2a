"""What breaks a rule is refused with its name, whatever the engine is; what keeps them all is not."""

import pytest

from enginehouse.config_rules import check_config
from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text

TENSORS = """
input { name: 'x' data_type: TYPE_FP32 dims: 3 }
output { name: 'y' data_type: TYPE_FP32 dims: -1 }
"""
BATCHED = "platform: 'onnxruntime_onnx' max_batch_size: 8 " + TENSORS
ELEMENTS = "kind: BATCH_ELEMENT_COUNT target_name: 'n' data_type: TYPE_FP32 source_input: 'x'"
ONE_LEVEL = "priority_levels: 1 default_priority_level: 1 preserve_ordering: true"
FAMILY = "metric_identifier { family: 'nv_inference_first_response_histogram_ms' }"
BUCKETS = FAMILY + " histogram_options { buckets: [2, 1] }"
DELAY = "{ timeout_action: DELAY default_timeout_microseconds: 5 }"


def check(text: str) -> None:
    check_config(config_from_text(text, "m"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dynamic_batching { default_priority_level: 1 }", "need priority_levels above 0"),
        ("dynamic_batching { priority_queue_policy { key: 1 value { } } }", "need priority_levels above 0"),
        ("dynamic_batching { priority_levels: 2 }", r"default_priority_level 0 must be in range \[1, 2\]"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 3 }", r"default_priority_level 3 must be"),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 } }",
            r"has level 3; it must be in range \[1, 2\]",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "only one priority level is allowed",
        ),
        (f"dynamic_batching {{ preserve_ordering: true default_queue_policy {DELAY} }}", "DELAY would break the order"),
        (
            f"dynamic_batching {{ {ONE_LEVEL} priority_queue_policy {{ value {DELAY} key: 1 }} }}",
            "DELAY would break the order",
        ),
        ("response_cache { enable: true } sequence_batching { }", "together with sequence_batching"),
        ("response_cache { enable: true } model_transaction_policy { decoupled: true }", "for a decoupled model"),
        ("instance_group { name: 'a' kind: KIND_CPU gpus: 0 }", r"'a' has kind KIND_CPU but specifies GPUs \[0\]"),
        ("instance_group { kind: KIND_MODEL gpus: 1 }", "has kind KIND_MODEL but specifies GPUs"),
        ("instance_group { profile: '0' }", "has a profile, which only TensorRT plans have"),
        ("input { name: 'a' data_type: TYPE_FP32 dims: [ 3, 4 ] format: FORMAT_NCHW }", r"FORMAT_NCHW, which needs 3"),
        ("input { data_type: TYPE_FP32 dims: 3 }", "an input has no name"),
        ("input { name: 'a' dims: 3 }", "input 'a' has no data_type"),
        ("output { name: 'a' data_type: TYPE_FP32 }", "output 'a' has no dims"),
        ("input { name: 'a' data_type: TYPE_FP32 dims: [ 3, 0 ] }", r"has dims \[3, 0\]; each must be 1 or more"),
        ("output { name: 'a' data_type: TYPE_FP32 dims: -2 }", r"has dims \[-2\]"),
        ("input { name: 'a' data_type: TYPE_FP32 dims: 3 reshape { shape: [ 3, 0 ] } }", r"reshaped to \[3, 0\]"),
        ("input { name: 'a' data_type: TYPE_INT32 dims: 1 is_shape_tensor: true }", "only TensorRT plans have"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT target_name: 'n' data_type: TYPE_FP32 }", "1 source_input, got 0"),
        (f"batch_input {{ {ELEMENTS.replace('FP32', 'FP64')} }}", "TYPE_INT32 or TYPE_FP32"),
        ("batch_input { " + ELEMENTS.replace("'x'", "'z'") + " }", "unknown source_input 'z'"),
        ("batch_output { target_name: 'y' }", "1 source_input, got 0"),
        ("batch_output { target_name: 'y' source_input: 'z' }", "unknown source_input 'z'"),
        ("batch_output { target_name: 'z' source_input: 'x' }", "unknown target_name 'z'"),
        ("batch_output { target_name: ['y', 'y'] source_input: 'x' }", "names a target twice"),
        ("model_metrics { metric_control { } }", r"without metric_identifier\.family"),
        ("model_metrics { metric_control { metric_identifier { family: 'f' } } }", "'f'; only nv_inference_first_resp"),
        ("metric_tags { key: 'team-name' value: 'v' }", "metric_tags has 'team-name'; a label takes letters"),
        ("metric_tags { key: '_reserved' value: 'v' }", "metric_tags has '_reserved'"),
        (
            f"model_metrics {{ metric_control {{ {BUCKETS} }} }}",
            r"buckets \[2\.0, 1\.0\]; they must rise",
        ),
    ],
)
def test_a_broken_rule_is_named(text: str, message: str) -> None:
    check(BATCHED)
    with pytest.raises(InvalidInput, match=message):
        check(BATCHED + text)


def test_a_profile_of_a_plan_is_a_number() -> None:
    plan = BATCHED.replace("onnxruntime_onnx", "tensorrt_plan")
    check(plan + "instance_group { profile: ['0', '12'] }")
    with pytest.raises(InvalidInput, match="has profile 'fast'; a number of 0 or more"):
        check(plan + "instance_group { profile: 'fast' }")


@pytest.mark.parametrize(
    "text",
    [
        "dynamic_batching { priority_levels: 2 default_priority_level: 2 priority_queue_policy { key: 2 value { } } }",
        "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 }",
        f"batch_input {{ {ELEMENTS} }} batch_output {{ target_name: 'y' source_input: 'x' }}",
        "response_cache { enable: true }",
        "input { name: 'a' data_type: TYPE_UINT8 dims: [ 3, -1, -1 ] format: FORMAT_NCHW }",
    ],
)
def test_what_keeps_the_rules_passes(text: str) -> None:
    check(BATCHED + text)


@pytest.mark.parametrize(
    "text", ["sequence_batching { }", "input { name: 'r' allow_ragged_batch: true optional: true }"]
)
def test_an_optional_input_has_rows_of_its_own(text: str) -> None:
    optional = "input { name: 'o' data_type: TYPE_FP32 dims: 1 optional: true }"
    check(BATCHED + optional)
    with pytest.raises(InvalidInput, match="is optional; it can be neither ragged nor part of a sequence"):
        check(BATCHED + text.replace("name: 'r'", "name: 'r' data_type: TYPE_FP32 dims: -1") + optional)
