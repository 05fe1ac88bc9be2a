from onnx import TensorProto, helper

from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer, layers_of, named_graph


def test_layers_are_the_nodes_that_compute_with_weights(small_graph: Graph) -> None:
    named = named_graph(small_graph)
    assert layers_of(named) == (
        Layer("MatMul_0", "MatMul", "x", ("hidden_weight",), "product"),
        Layer("Gemm_3", "Gemm", "hidden", ("score_weight",), "scores"),
    )


def test_a_product_of_two_activations_is_no_layer() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("a", "b", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "g", values[:2], values[2:])
    assert layers_of(named_graph(Graph(helper.make_model(graph)))) == ()


def test_a_node_of_another_domain_is_no_layer() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("a", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0] * 4)
    node = helper.make_node("MatMul", ["a", "w"], ["y"], domain="com.example")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    assert layers_of(named_graph(Graph(helper.make_model(graph)))) == ()


def test_names_are_given_once_and_those_that_are_there_stay(small_graph: Graph) -> None:
    model = small_graph.copy()
    model.graph.node[0].name = model.graph.node[1].name = "same"
    names = [node.name for node in named_graph(Graph(model)).model.graph.node]
    assert names[0] == "same"
    assert len(set(names)) == len(names) == 4
    assert "" not in names


def test_naming_leaves_the_given_graph_as_it_is(small_graph: Graph) -> None:
    before = small_graph.fingerprint()
    named_graph(small_graph)
    assert small_graph.fingerprint() == before
