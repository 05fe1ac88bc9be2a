from collections.abc import Callable

import numpy as np
import onnx

from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import GraphEditor

TEXT = "(float[N,3] x) => (float[N,3] y) { a = Add(x, W) b = Relu(a) y = Mul(a, b) }"
WEIGHTS = {"W": np.ones(3, np.float32)}


def test_editor_tells_who_makes_and_who_reads_a_value(plant: Callable[..., Graph]) -> None:
    editor = GraphEditor(plant(TEXT, WEIGHTS))
    add, relu, mul = editor.nodes
    assert editor.producer("a") is add
    assert editor.consumers("a") == [relu, mul]
    assert editor.is_fed("x")
    assert editor.is_fed("W")
    assert not editor.is_fed("a")
    assert editor.is_output("y")
    assert editor.why_shared("a", relu) == "'a' is also used by Mul 'y'"
    assert editor.why_shared("b", mul) is None


def test_editor_knows_constants_shapes_and_types(plant: Callable[..., Graph]) -> None:
    editor = GraphEditor(plant(TEXT, WEIGHTS))
    np.testing.assert_array_equal(editor.constant("W"), np.ones(3))
    assert editor.constant("x") is None
    assert editor.shape("b") == (-1, 3)
    assert editor.shape("W") == (3,)
    assert editor.element_type("b") == onnx.TensorProto.FLOAT
    assert editor.shape("nowhere") is None


def test_untouched_editor_gives_the_graph_back(plant: Callable[..., Graph]) -> None:
    graph = plant(TEXT, WEIGHTS)
    result = GraphEditor(graph).rewritten()
    assert not result.changed
    assert result.graph is graph


def test_added_weight_never_takes_a_name_in_use(plant: Callable[..., Graph]) -> None:
    editor = GraphEditor(plant(TEXT, WEIGHTS))
    names = [editor.add_weight("a", np.zeros(1, np.float32)) for _ in range(3)]
    assert len({*names, "a"}) == 4


def test_replacement_stands_where_the_last_node_stood(plant: Callable[..., Graph]) -> None:
    graph = plant(TEXT, WEIGHTS)
    editor = GraphEditor(graph)
    _, relu, mul = editor.nodes
    editor.replace([relu, mul], onnx.helper.make_node("Neg", ["a"], ["y"]))
    result = editor.rewritten()
    onnx.checker.check_model(result.graph.model, full_check=True)
    assert [node.op_type for node in result.graph.model.graph.node] == ["Add", "Neg"]


def test_weights_that_were_listed_as_inputs_become_plain_ones() -> None:
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones(2, np.float32), "W")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "W"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])],
        "old",
        [value("x", 1, [None, 2]), value("W", 1, [2])],
        [value("y", 1, [None, 2])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 8)])
    model.ir_version = 3
    onnx.checker.check_model(model, full_check=True)
    editor = GraphEditor(Graph(model))
    editor.set_weight("a", np.ones((1, 2), np.float32))
    editor.replace(editor.find("Add"))
    edited = editor.rewritten().graph.model
    assert [entry.name for entry in edited.graph.input] == ["x"]
    onnx.checker.check_model(edited, full_check=True)
