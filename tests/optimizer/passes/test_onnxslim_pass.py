from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.passes.onnxslim_pass import slim


def test_reshapes_in_a_row_become_one(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = "(float[N,6] x) => (float[N,6] y) { a = Reshape(x, s) b = Reshape(a, t) y = Relu(b) }"
    weights = {"s": np.array([-1, 2, 3], np.int64), "t": np.array([-1, 6], np.int64)}
    graph = plant(text, weights)
    result = slim(graph)
    assert result.changed
    rewrites(slim, graph, result.graph.op_counts(), tolerance=0)
    assert result.graph.node_count < graph.node_count


def test_graph_without_anything_to_do_is_unchanged(plant: Callable[..., Graph]) -> None:
    graph = plant("(float[N,2] x) => (float[N,2] y) { y = Mul(x, W) }", {"W": np.ones(2, np.float32)})
    result = slim(graph)
    assert not result.changed
    assert result.graph is graph


def test_opset_that_the_library_cannot_read_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant("(float[N,2] x) => (float[N,2] y) { a = Tanh(x) y = Tanh(a) }", {}, opset=6)
    declines(slim, graph, "opset 7 is needed")
