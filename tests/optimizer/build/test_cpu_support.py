"""What ONNX Runtime and OpenVINO cannot run, node by node."""

from pathlib import Path

import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper

from optimizer.build.cpu_support import unsupported_by_onnxruntime, unsupported_by_openvino
from optimizer.build.unsupported_node import UnsupportedNode
from optimizer.graph.graph import Graph
from tests.conftest import DIGITS

FOREIGN = [
    helper.make_node("Relu", ["x"], ["a"], name="fine"),
    helper.make_node("Strange", ["a"], ["b"], name="first", domain="com.example"),
    helper.make_node("Stranger", ["b"], ["y"], domain="com.example"),
]


def saved(nodes: list[NodeProto], folder: Path, functions: list[FunctionProto] | None = None) -> tuple[Graph, Path]:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph(nodes, "g", [value], [output])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])
    Graph(model).save(folder / "model.onnx")
    return Graph(model), folder / "model.onnx"


def test_onnx_runtime_is_told_every_node_that_it_has_no_kernel_for(tmp_path: Path) -> None:
    reason = "ONNX Runtime has no kernel for it on the CPU"
    assert unsupported_by_onnxruntime(*saved(FOREIGN, tmp_path)) == (
        UnsupportedNode("first", "com.example.Strange", reason),
        UnsupportedNode("y", "com.example.Stranger", reason),
    )


def test_onnx_runtime_is_told_nodes_of_branches_too(tmp_path: Path) -> None:
    inner = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Strange", ["x"], ["t"], name="inside", domain="com.example")]
    branch = helper.make_graph(nodes, "t", [], [inner])
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["c"], ["y"])
    choice.attribute.extend(helper.make_attribute(name, branch) for name in ("then_branch", "else_branch"))
    found = unsupported_by_onnxruntime(*saved([condition, choice], tmp_path))
    assert [node.node for node in found] == ["inside", "inside"]


def test_a_kernel_that_lacks_the_type_is_told_in_the_library_s_words(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.UINT16),
        helper.make_node("Gelu", ["i"], ["u"], name="typed"),
        helper.make_node("Cast", ["u"], ["y"], to=TensorProto.FLOAT),
    ]
    (node,) = unsupported_by_onnxruntime(*saved(nodes, tmp_path))
    assert (node.node, node.operator) == ("model.onnx", "model")
    assert "Gelu" in node.reason


def test_a_function_of_the_model_itself_needs_no_kernel(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    own = helper.make_function("com.example", "Strange", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    nodes = [FOREIGN[0], FOREIGN[1], helper.make_node("Stranger", ["b"], ["y"], name="left", domain="com.example")]
    assert [node.node for node in unsupported_by_onnxruntime(*saved(nodes, tmp_path, [own]))] == ["left"]


def test_a_model_that_runs_has_nothing_unsupported() -> None:
    path = DIGITS / "digits.onnx"
    from optimizer.graph.graph import load_graph

    assert unsupported_by_onnxruntime(load_graph(path), path) == ()


def test_openvino_is_told_every_node_that_it_has_no_conversion_for(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed here")
    nodes = [FOREIGN[0], helper.make_node("Det", ["a"], ["b"], name="first"), FOREIGN[2]]
    reason = "OpenVINO has no conversion for it"
    assert unsupported_by_openvino(*saved(nodes, tmp_path)) == (
        UnsupportedNode("first", "Det", reason),
        UnsupportedNode("y", "com.example.Stranger", reason),
    )
    path = DIGITS / "digits.onnx"
    from optimizer.graph.graph import load_graph

    assert unsupported_by_openvino(load_graph(path), path) == ()
