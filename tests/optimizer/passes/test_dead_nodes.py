from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.passes.dead_nodes import remove_dead_nodes


def test_branch_that_no_output_needs_goes_with_its_weights(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = "(float[N,2] x) => (float[N,2] y) { a = Add(x, W) b = Relu(a) y = Add(x, V) }"
    graph = plant(text, {"W": np.ones(2, np.float32), "V": np.ones(2, np.float32)})
    result = rewrites(remove_dead_nodes, graph, {"Add": 1}, tolerance=0)
    assert [tensor.name for tensor in result.model.graph.initializer] == ["V"]


def test_weights_alone_may_be_dead(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x) => (float[N] y) { y = Relu(x) }", {"W": np.ones(2, np.float32)})
    assert rewrites(remove_dead_nodes, graph, {"Relu": 1}, tolerance=0).parameter_count == 0


def test_inputs_stay_though_nobody_reads_them(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x, float[N] unused) => (float[N] y) { z = Neg(unused) y = Relu(x) }", {})
    result = rewrites(remove_dead_nodes, graph, {"Relu": 1}, tolerance=0)
    assert [spec.name for spec in result.inputs] == ["x", "unused"]


def test_what_a_subgraph_reads_stays(plant: Callable[..., Graph]) -> None:
    text = """(float[N] x, bool flag) => (float[N] y) {
        a = Add(x, W)
        y = If(flag) <
            then_branch = first () => (float[N] t) { t = Relu(a) },
            else_branch = second () => (float[N] e) { e = Mul(x, V) }
        >
    }"""
    graph = plant(text, {"W": np.ones(1, np.float32), "V": np.ones(1, np.float32)})
    assert not remove_dead_nodes(graph).changed


def test_node_with_one_needed_output_stays(plant: Callable[..., Graph]) -> None:
    graph = plant("(float[N,4] x) => (float[N,2] y) { y, z = Split<axis = 1, num_outputs = 2>(x) }", {})
    assert not remove_dead_nodes(graph).changed
