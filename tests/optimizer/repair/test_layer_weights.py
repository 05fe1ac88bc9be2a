from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper, numpy_helper

from optimizer.graph.graph import Graph
from optimizer.repair.layer_weights import LayerWeights, array_of, has_matrix, matrix_of, output_axis, with_weights

RANDOM = np.random.default_rng(0)
CONV = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
GEMM = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def test_a_grouped_convolution_is_outputs_by_inputs_within_each_group() -> None:
    weights = RANDOM.standard_normal((6, 2, 3, 5))
    matrix = matrix_of(CONV, weights)
    assert matrix.shape == (2, 3, 2, 15)
    np.testing.assert_array_equal(matrix[1, 2, 0], weights[5, 0].reshape(-1))


def test_gemm_and_matmul_are_the_same_map_in_the_same_form() -> None:
    weights = RANDOM.standard_normal((4, 3))
    np.testing.assert_array_equal(matrix_of(GEMM, weights), matrix_of(MATMUL, weights.T))
    assert (output_axis(GEMM), output_axis(MATMUL), output_axis(CONV)) == (0, 1, 0)


@pytest.mark.parametrize(("node", "shape"), [(CONV, (6, 2, 3, 3)), (GEMM, (4, 3)), (MATMUL, (3, 4))])
def test_the_way_back_is_exact(node: object, shape: tuple[int, ...]) -> None:
    weights = RANDOM.standard_normal(shape)
    np.testing.assert_array_equal(array_of(node, matrix_of(node, weights), shape), weights)  # type: ignore[arg-type]


def test_weights_in_another_form_are_told_apart() -> None:
    assert has_matrix(CONV, (6, 2, 3, 3))
    assert not has_matrix(MATMUL, (2, 3, 4)), "a stack of matrices"
    assert not has_matrix(helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), (3, 4))
    assert not has_matrix(helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (3, 4, 2, 2))


def shared(plant: Callable[..., Graph]) -> Graph:
    return plant(
        "(float[batch, 2] x) => (float[batch, 2] y) { a = MatMul(x, w)  b = MatMul(a, w)  y = MatMul(b, v) }",
        {"w": np.eye(2), "v": np.eye(2)},
    )


def test_weights_that_two_nodes_read_are_not_private(plant: Callable[..., Graph]) -> None:
    weights = LayerWeights(shared(plant))
    assert weights.is_private("v")
    assert not weights.is_private("w")
    assert weights.is_known("w")
    assert not weights.is_known("x")


def test_edits_are_seen_at_once_and_leave_the_source_alone(plant: Callable[..., Graph]) -> None:
    graph = shared(plant)
    before = graph.fingerprint()
    weights = LayerWeights(graph)
    weights.scale("v", np.array([2.0, 3.0]))
    np.testing.assert_array_equal(weights.array("v"), np.diag([2, 3]))
    assert weights.array("v").dtype == np.float32
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in weights.graph().model.graph.initializer}
    np.testing.assert_array_equal(found["v"], np.diag([2, 3]))
    np.testing.assert_array_equal(found["w"], np.eye(2))
    assert graph.fingerprint() == before


def test_overflow_is_noticed(plant: Callable[..., Graph]) -> None:
    weights = LayerWeights(shared(plant))
    assert weights.is_finite()
    weights.scale("v", np.array(1e39))
    assert not weights.is_finite()


def test_unknown_names_become_initializers(plant: Callable[..., Graph]) -> None:
    found = with_weights(shared(plant), {"new": np.array([[1, 2]], np.float32)})
    assert [tensor.name for tensor in found.model.graph.initializer] == ["w", "v", "new"]
