from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.dtype import Array
from optimizer.graph.nodes import (
    captured_values,
    constant_value,
    float_attribute,
    input_at,
    int_attribute,
    ints_attribute,
    label,
    operator_name,
    text_attribute,
)

PAD = onnx.helper.make_node("Pad", ["x", "", "v"], ["y"], mode="edge", pads=[1, 2], value=0.5, flag=3)


def test_attributes_are_read_or_have_their_default() -> None:
    assert text_attribute(PAD, "mode", "constant") == "edge"
    assert text_attribute(PAD, "none", "constant") == "constant"
    assert ints_attribute(PAD, "pads") == [1, 2]
    assert ints_attribute(PAD, "none") is None
    assert float_attribute(PAD, "value", 0) == 0.5
    assert int_attribute(PAD, "flag", 0) == 3


def test_inputs_that_are_left_out_have_no_name() -> None:
    assert [input_at(PAD, at) for at in range(4)] == ["x", "", "v", ""]


def test_nodes_are_named_by_what_they_have() -> None:
    assert label(PAD) == "Pad 'y'"
    assert label(onnx.helper.make_node("Relu", ["x"], ["y"], name="act")) == "Relu 'act'"
    assert operator_name(onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")) == "com.microsoft.Gelu"
    assert operator_name(onnx.helper.make_node("Gelu", ["x"], ["y"], domain="ai.onnx")) == "Gelu"


def test_subgraphs_tell_what_they_read() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[N] x, bool flag) => (float[N] y) {
        y = If(flag) <
            then_branch = first () => (float[N] t) { t = Relu(x) },
            else_branch = second () => (float[N] e) { e = Neg(flag) }
        >
    }"""
    (node,) = onnx.parser.parse_model(text).graph.node
    assert {"x", "flag"} <= set(captured_values(node))


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_ints": [1, 2]}, np.array([1, 2], np.int64)),
        ({"value": onnx.numpy_helper.from_array(np.ones(2, np.int8))}, np.ones(2, np.int8)),
    ],
)
def test_constants_are_read(attribute: dict[str, Any], expected: Array) -> None:
    found = constant_value(onnx.helper.make_node("Constant", [], ["c"], **attribute))
    assert found is not None
    assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())
