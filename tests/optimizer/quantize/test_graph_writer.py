import numpy as np
from onnx import helper

from optimizer.graph.graph import Graph
from optimizer.quantize.graph_writer import GraphWriter
from tests.optimizer.quantize.graphs import graph_of, node, weight


def test_a_graph_is_written_anew_without_what_nothing_reads() -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 8)}, ("n", 8))
    before = graph.fingerprint()
    writer = GraphWriter(graph)
    writer.add("Mul", ["x", writer.constant("two", np.array(2, np.float32))], "y", "double")
    found = writer.finish()
    assert [each.name for each in found.model.graph.node] == ["double"]
    assert [each.name for each in found.model.graph.initializer] == ["two"]
    assert graph.fingerprint() == before


def test_a_weight_that_is_listed_as_an_input_goes_from_there_too() -> None:
    model = graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 8)}, ("n", 8)).copy()
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [8, 8]))
    writer = GraphWriter(Graph(model))
    writer.add("Identity", ["x"], "y", "same")
    assert [each.name for each in writer.finish().model.graph.input] == ["x"]


def test_names_are_fresh_unless_they_were_freed() -> None:
    writer = GraphWriter(graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 8)}, ("n", 8)))
    assert [writer.fresh(name) for name in ("w", "w", "y_node", "new")] == ["w_", "w__", "y_node_", "new"]
    writer.free("y_node")
    assert writer.fresh("y_node") == "y_node"


def test_the_contributed_domain_is_imported_once() -> None:
    writer = GraphWriter(graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 8)}, ("n", 8)))
    for output in ("a", "y"):
        writer.add_contributed(helper.make_node("Gelu", ["x"], [output]))
    found = writer.finish().model
    assert [entry.domain for entry in found.opset_import] == ["", "com.microsoft"]
    assert {each.domain for each in found.graph.node} == {"com.microsoft"}
