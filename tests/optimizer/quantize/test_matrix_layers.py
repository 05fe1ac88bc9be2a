import numpy as np
import pytest

from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.quantize.matrix_layers import MatrixLayer, matrix_layers
from tests.optimizer.quantize.graphs import answers, chain, gemms, graph_of, node, rows, weight


def only(graph: Graph) -> MatrixLayer:
    return matrix_layers(graph, ["y_node"])["y_node"]


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5}, {"transB": 1}, {"transB": 1, "alpha": -2.0}])
def test_a_gemm_is_its_activation_times_the_weight_plus_the_bias(attributes: dict[str, float]) -> None:
    shape = (5, 8) if "transB" in attributes else (8, 5)
    weights = {"w": weight(*shape), "b": weight(5)}
    graph = graph_of([node("Gemm", "x w b", "y", **attributes)], weights, ("n", 8))
    layer = only(graph)
    assert (layer.activation, layer.bias, layer.output, layer.weight.shape) == ("x", "b", "y", (8, 5))
    assert np.allclose(rows()["x"] @ layer.weight + weights["b"], answers(graph, rows())["y"], atol=1e-5)


def test_a_matmul_has_no_bias() -> None:
    layer = only(graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 5)}, ("n", 8)))
    assert layer.bias == ""


def test_the_same_weight_in_another_form_is_told_apart() -> None:
    nodes = [node("Gemm", "x w", "a"), node("Gemm", "a w", "b", transB=1), node("Gemm", "b w", "y", alpha=0.5)]
    found = matrix_layers(graph_of(nodes, {"w": weight(8, 8)}, ("n", 8)), ["a_node", "b_node", "y_node"])
    assert {layer.weight_name for layer in found.values()} == {"w"}
    assert len({layer.form for layer in found.values()}) == 3


def test_other_layers_and_those_not_asked_for_are_left_out() -> None:
    assert not matrix_layers(chain(), [layer.name for layer in layers_of(chain())])
    assert set(matrix_layers(gemms(), ["h_node", "r_node"])) == {"h_node"}
