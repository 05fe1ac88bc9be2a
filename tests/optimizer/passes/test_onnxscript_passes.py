from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.passes.onnxscript_passes import optimize_with_onnxscript, rewrite_with_onnxscript


def test_optimizer_folds_a_static_shape(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = "(float[2,3] x) => (float[6] y) { s = Shape(x) n = ReduceProd<keepdims = 1>(s) y = Reshape(x, n) }"
    rewrites(optimize_with_onnxscript, plant(text, {}), {"Reshape": 1}, tolerance=0)


def test_rewriter_makes_an_identity_of_a_transposition_of_nothing(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    graph = plant("(float[N,3] x) => (float[N,3] y) { a = Transpose<perm = [0, 1]>(x) y = Relu(a) }", {})
    rewrites(rewrite_with_onnxscript, graph, {"Identity": 1, "Relu": 1}, tolerance=0)


def test_graph_without_anything_to_do_is_unchanged(plant: Callable[..., Graph]) -> None:
    graph = plant("(float[N,2] x) => (float[N,2] y) { y = Mul(x, W) }", {"W": np.ones(2, np.float32)})
    for rewrite in (optimize_with_onnxscript, rewrite_with_onnxscript):
        result = rewrite(graph)
        assert not result.changed
        assert result.graph is graph


def test_rewriter_writes_for_the_opset_of_the_model(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = "(float[2,3] x, float[6] z) => (float[2,3] y) { s = Shape(x) y = Reshape(z, s) }"
    graph = plant(text, {}, opset=13)
    assert rewrites(rewrite_with_onnxscript, graph, {"Constant": 1, "Reshape": 1}, 0).opset == 13
