from collections.abc import Callable, Sequence

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.biases import Bias, bias_of, with_biases
from optimizer.repair.layer_weights import LayerWeights

Answers = Callable[[Graph, Sequence[Tensors]], list[Tensors]]
RANDOM = np.random.default_rng(0)
IMAGES = {"x": RANDOM.standard_normal((2, 3, 5, 5)).astype(np.float32)}
ROWS = {"x": RANDOM.standard_normal((2, 4, 3)).astype(np.float32)}
CONV = "(float[batch, 3, 5, 5] x) => (float[batch, 6, 3, 3] y) { y = Conv(x, w%s) }"
GEMM = "(float[batch, 3] x) => (float[batch, 6] y) { y = Gemm%s(x, w%s) }"
MATMUL = "(float[batch, 4, 3] x) => (float[batch, 4, 6] y) { p = MatMul(x, w)  y = Add(%s) }"
KERNEL, MATRIX, VECTOR = RANDOM.standard_normal((6, 3, 3, 3)), RANDOM.standard_normal((3, 6)), np.arange(6.0)


def found(graph: Graph, layer: str) -> Bias | None:
    editor = GraphEditor(graph)
    node = next(node for node in editor.nodes if node.name == layer)
    return bias_of(editor, LayerWeights(graph), node)


def shifted(graph: Graph, layer: str, shift: Array) -> Graph:
    bias = found(graph, layer)
    assert bias is not None
    return with_biases(graph, [(bias, bias.values + shift)])


@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_convolution_takes_another_bias_whether_it_had_one_or_not(
    plant: Callable[..., Graph], answers: Answers, bias: str
) -> None:
    graph = plant(CONV % bias, {"w": KERNEL} | ({"b": VECTOR} if bias else {}))
    before, after = (answers(each, [IMAGES])[0]["y"] for each in (graph, shifted(graph, "y_node", VECTOR)))
    np.testing.assert_allclose(after - before, np.broadcast_to(VECTOR[:, None, None], before.shape), atol=1e-5)


def test_one_number_for_all_outputs_becomes_one_for_each(plant: Callable[..., Graph], answers: Answers) -> None:
    graph = plant(GEMM % ("", ", b"), {"w": MATRIX, "b": np.array([2.0])})
    feeds = [{"x": ROWS["x"][:, 0]}]
    before, after = (answers(each, feeds)[0]["y"] for each in (graph, shifted(graph, "y_node", VECTOR)))
    np.testing.assert_allclose(after - before, np.broadcast_to(VECTOR, before.shape), atol=1e-5)


@pytest.mark.parametrize("operands", ["p, b", "b, p"])
def test_the_bias_of_a_matmul_is_in_the_add_behind_it(
    plant: Callable[..., Graph], answers: Answers, operands: str
) -> None:
    graph = plant(MATMUL % operands, {"w": MATRIX, "b": VECTOR})
    bias = found(graph, "p_node")
    assert bias is not None
    assert (bias.site, bias.name) == ("y_node", "b")
    before, after = (answers(each, [ROWS])[0]["y"] for each in (graph, shifted(graph, "p_node", VECTOR)))
    np.testing.assert_allclose(after - before, np.broadcast_to(VECTOR, before.shape), atol=1e-5)


def test_a_shared_bias_is_changed_for_one_layer_alone(plant: Callable[..., Graph], answers: Answers) -> None:
    text = "(float[batch, 3] x) => (float[batch, 6] y, float[batch, 6] z) { y = Gemm(x, w, b)  z = Gemm(x, v, b) }"
    graph = plant(text, {"w": MATRIX, "v": -MATRIX, "b": VECTOR})
    feeds = [{"x": ROWS["x"][:, 0]}]
    (before,), (after,) = (answers(each, feeds) for each in (graph, shifted(graph, "z_node", VECTOR)))
    np.testing.assert_array_equal(before["y"], after["y"])
    np.testing.assert_allclose(after["z"] - before["z"], np.broadcast_to(VECTOR, before["z"].shape), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        (GEMM % ("<beta = 0.5>", ", b"), {"w": MATRIX, "b": VECTOR}),
        (GEMM % ("<transA = 1>", ""), {"w": MATRIX}),
        ("(float[2, 3] x, float[6] b) => (float[2, 6] y) { y = Gemm(x, w, b) }", {"w": MATRIX}),
        ("(float[2, 3] x) => (float[2, 6] y) { y = MatMul(x, w) }", {"w": MATRIX}),
        ("(float[2, 3] x) => (float[2, 6] y) { y = Gemm(x, w, b) }", {"w": MATRIX, "b": np.ones((2, 6))}),
        (
            "(float[2, 3] x) => (float[2, 6] y, float[2, 6] z) { p = MatMul(x, w)  y = Add(p, b)  z = Relu(p) }",
            {"w": MATRIX, "b": VECTOR},
        ),
    ],
    ids=["beta", "transposed", "fed", "no_add", "by_row", "read_before_the_add"],
)
def test_what_is_no_constant_bias_by_channel_is_none(
    plant: Callable[..., Graph], text: str, weights: dict[str, Array]
) -> None:
    graph = plant(text.replace("float[batch, 3] x", "float[3, 4] x") if "transA" in text else text, weights)
    assert found(graph, graph.model.graph.node[0].name) is None
