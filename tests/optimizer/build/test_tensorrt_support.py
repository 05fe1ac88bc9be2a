"""What a parser says of nodes that it cannot build, in our words; the real parser is asked where TensorRT-RTX is."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import NodeProto, TensorProto, helper

from enginehouse.tensorrt_library import LIBRARIES
from optimizer.build.tensorrt_support import errors_of, unsupported_nodes
from optimizer.graph.graph import Graph
from tests.tensorrt_builder_fakes import Told, fake_tensorrt
from tests.tensorrt_fakes import FakeCuda

RTX = LIBRARIES["tensorrt-rtx"]

_TWO_TYPES = """Invalid Node - n
ITensor::getDimensions: Error Code 4: API Usage Error (n: SUM must have same input types. But they are Half and Float. \
In validateTypes at /_src/nodes.cpp:40)
[checks] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)
"""


def graph_of(nodes: list[NodeProto], element_type: int = TensorProto.FLOAT) -> Graph:
    value = helper.make_tensor_value_info("x", element_type, ["n", 3, 3])
    output = helper.make_tensor_value_info(nodes[-1].output[0], element_type, None)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return Graph(
        helper.make_model(helper.make_graph(nodes, "g", [value], [output]), opset_imports=opsets, ir_version=10)
    )


def parser_that_says(text: str) -> SimpleNamespace:
    error = SimpleNamespace(
        node_name=lambda: "n",
        node_operator=lambda: "Add",
        desc=lambda: text,
        code=lambda: SimpleNamespace(name="INVALID_NODE"),
    )
    return SimpleNamespace(num_errors=1, get_error=lambda _: error)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("false", "TensorRT-RTX has no Add"),
        ('creator && "Plugin not found, are the name right?"', "TensorRT-RTX knows no operator and no plugin Add"),
        ('Assertion failed: a(b, &c) && "Failed to convert."', "Failed to convert."),
        (_TWO_TYPES, "n: SUM must have same input types. But they are Half and Float"),
        ("Invalid Node - n", "INVALID_NODE"),
    ],
)
def test_reasons_are_told_without_the_library_s_own_places(said: str, reason: str) -> None:
    assert [node.reason for node in errors_of(parser_that_says(said), RTX)] == [reason]


def test_tensorrt_is_asked_by_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(FakeCuda(), Told()))
    graph = graph_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Det", ["a"], ["b"], name="d")])
    assert [str(node) for node in unsupported_nodes(graph, "tensorrt")] == ["Det 'd': TensorRT has no Det"]
    assert unsupported_nodes(graph_of([helper.make_node("Relu", ["x"], ["a"])]), "tensorrt") == ()


@pytest.mark.rtx
def test_the_real_parser_names_every_node_with_its_reason() -> None:
    graph = graph_of(
        [
            helper.make_node("Relu", ["x"], ["a"], name="r"),
            helper.make_node("Det", ["a"], ["b"]),
            helper.make_node("Custom", ["b"], ["c"], name="cu", domain="com.example"),
        ]
    )
    assert [str(node) for node in unsupported_nodes(graph, "tensorrt-rtx")] == [
        "Det 'Det_1': TensorRT-RTX has no Det",
        "Custom 'cu': TensorRT-RTX knows no operator and no plugin Custom",
    ]


@pytest.mark.rtx
def test_the_real_parser_looks_into_branches() -> None:
    inner = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branches: dict[str, Any] = {
        "then_branch": helper.make_graph([helper.make_node("Det", ["x"], ["t"], name="inside")], "t", [], [inner]),
        "else_branch": helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "e", [], [inner]),
    }
    graph = graph_of([helper.make_node("If", ["c"], ["y"], name="choice", **branches)])
    graph.model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    assert [node.node for node in unsupported_nodes(graph, "tensorrt-rtx")] == ["inside"]


@pytest.mark.rtx
def test_types_that_the_real_parser_would_take_for_others_are_named() -> None:
    found = unsupported_nodes(graph_of([helper.make_node("Relu", ["x"], ["y"])], TensorProto.DOUBLE), "tensorrt-rtx")
    assert [(node.operator, node.node) for node in found] == [("input", "x"), ("output", "y")]


@pytest.mark.rtx
def test_mixed_types_are_explained_by_the_real_parser() -> None:
    graph = graph_of(
        [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16, name="c"),
            helper.make_node("Add", ["h", "x"], ["y"], name="mixed"),
        ]
    )
    (node,) = unsupported_nodes(graph, "tensorrt-rtx")
    assert node.node == "mixed"
    assert "must have same input types" in node.reason
    assert "/" not in node.reason
