"""Each rule by itself: the operator, ONNX's own types, the reach of the values, what rounding would take away."""

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, defs, helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.layers import LAYER_OPERATORS
from optimizer.lower.float_rules import PASSING_ON, FloatFacts, HalfPrecision, operands, results, why_not
from tests.optimizer.lower.conftest import Ranges, make_graph, random_array

WIDE: Ranges = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}


def facts_of(
    node: NodeProto,
    weights: dict[str, Array],
    precision: HalfPrecision = "fp16",
    ranges: Ranges = WIDE,
    opset: int = 22,
) -> FloatFacts:
    graph = make_graph([node], weights, {"x": [2, 4]}, {"y": None}, opset)
    graph.model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    return FloatFacts(graph, precision, ranges)


def matmul(weights: Array, ranges: Ranges = WIDE, precision: HalfPrecision = "fp16") -> str:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    return why_not(node, facts_of(node, {"w": weights}, precision, ranges))


def test_a_layer_whose_values_fit_may_be_lowered() -> None:
    assert matmul(random_array(4, 3)) == ""


@pytest.mark.parametrize(
    "operator",
    [
        "Softmax", "LogSoftmax", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "ReduceSum", "ReduceMean",
        "GlobalAveragePool", "InstanceNormalization", "LayerNormalization", "Pow", "Div", "CumSum", "Softplus",
    ],
)  # fmt: skip
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_sums_up_or_stretches_its_values_stays_fp32_by_rule(operator: str, precision: HalfPrecision) -> None:
    node = helper.make_node(operator, ["x"], ["y"])
    assert why_not(node, facts_of(node, {}, precision)) == f"{operator} is computed in FP32 by rule"


def test_a_foreign_operator_of_a_known_name_stays_fp32() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], domain="com.example")
    assert why_not(node, facts_of(node, {"w": random_array(4, 4)})) == "Conv is computed in FP32 by rule"


def test_every_operator_of_the_rules_is_one_of_onnx_that_has_both_precisions() -> None:
    for operator in LAYER_OPERATORS | PASSING_ON:
        schema = defs.get_schema(operator, 22)
        allowed = {kind for entry in schema.type_constraints for kind in entry.allowed_type_strs}
        assert {"tensor(float16)", "tensor(bfloat16)"} <= allowed, operator


@pytest.mark.parametrize(("opset", "reason"), [(21, "Conv of opset 21 has no BF16"), (22, "")])
def test_bf16_is_allowed_where_onnx_has_it(opset: int, reason: str) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    assert why_not(node, facts_of(node, {"w": random_array(4, 4)}, "bf16", {}, opset)) == reason


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ({"x": (-32752.0, 0.0), "y": (0.0, 1.0)}, ""),
        ({"x": (-32753.0, 0.0), "y": (0.0, 1.0)}, "'x' reaches 3.28e+04, and FP16 ends at 65504"),
        ({"x": (0.0, 1.0), "y": (0.0, 7e4)}, "'y' reaches 7e+04, and FP16 ends at 65504"),
        ({"x": (0.0, 1.0), "y": (0.0, np.inf)}, "'y' reaches inf, and FP16 ends at 65504"),
        ({"x": (0.0, 1.0), "y": (np.nan, np.nan)}, "'y' reaches nan, and FP16 ends at 65504"),
        ({"x": (0.0, 1.0)}, "'y' has no calibrated range"),
    ],
)
def test_values_must_have_been_seen_and_fit_twice(ranges: Ranges, reason: str) -> None:
    assert matmul(random_array(4, 3), ranges) == reason
    assert matmul(random_array(4, 3), ranges, "bf16") == ""


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (1e-3, ""),
        (1e-5, "'w' is too small for FP16, which would lose 0.2% of it"),
        (1e-9, "'w' is too small for FP16, which would lose 100.0% of it"),
        (1e6, "'w' holds 1.3e+06, and FP16 ends at 65504"),
    ],
)
def test_weights_must_survive_the_rounding(scale: float, reason: str) -> None:
    assert matmul(random_array(4, 3, scale=scale)) == reason
    assert matmul(random_array(4, 3, scale=scale), precision="bf16") == ""


def test_zeros_and_nothing_at_all_are_kept_exactly() -> None:
    assert matmul(np.zeros((4, 3), np.float32)) == ""
    assert matmul(np.zeros((4, 0), np.float32)) == ""


def test_a_few_small_values_among_large_ones_do_not_matter() -> None:
    weights = random_array(4, 3)
    weights[0, 0] = 1e-9
    assert matmul(weights) == ""


def test_a_constant_node_counts_as_a_weight() -> None:
    constant = helper.make_node("Constant", [], ["w"], value_floats=[1e-9, 1e-9, 1e-9, 1e-9])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = make_graph([constant, node], {}, {"x": [2, 4]}, {"y": [2, 4]})
    assert why_not(node, FloatFacts(graph, "fp16", WIDE)).startswith("'w' is too small for FP16")


def test_integers_and_doubles_are_not_lowered() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [2])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [2])],
    )
    facts = FloatFacts(Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])), "fp16", WIDE)
    assert why_not(graph.node[0], facts) == "it does not compute in FP32"


def test_only_what_shares_the_type_of_the_result_moves_with_a_node() -> None:
    """Resize has scales that stay FP32; MaxPool has indices; an optional input may be left out."""
    resize = helper.make_node("Resize", ["x", "", "scales"], ["y"])
    facts = facts_of(resize, {"scales": np.array([1, 2], np.float32)})
    assert list(operands(resize, facts)) == [(0, "x")]
    pool = helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[1])
    assert list(results(pool, facts)) == [(0, "y")]
    concat = helper.make_node("Concat", ["x", "x", "scales"], ["y"], axis=0)
    assert [position for position, _ in operands(concat, facts)] == [0, 1, 2]
