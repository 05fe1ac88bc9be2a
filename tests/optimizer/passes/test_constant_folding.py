from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.passes.constant_folding import fold_constants


def test_constant_sub_graph_becomes_one_weight(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = """(float[N,2] x) => (float[N,2] y) {
        half = Constant<value_float = 0.5>()
        a = Add(W, V)
        b = Mul(a, half)
        y = Add(x, b)
    }"""
    graph = plant(text, {"W": np.array([1, 2], np.float32), "V": np.array([3, 4], np.float32)})
    rewrites(fold_constants, graph, {"Add": 1}, tolerance=0)


def test_every_kind_of_constant_node_becomes_a_weight(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = """(float[N,2] x) => (float[N,2] y, string[2] s) {
        a = Constant<value_floats = [1.0, 2.0]>()
        b = Constant<value_ints = [0, 1]>()
        c = Constant<value_int = 1>()
        d = Constant<value = float[2] {3.0, 4.0}>()
        t = Constant<value_strings = ["p", "q"]>()
        e = Gather(a, b)
        f = Cast<to = 1>(c)
        g = Add(x, e)
        h = Mul(g, f)
        y = Add(h, d)
        s = Gather(t, b)
    }"""
    rewrites(fold_constants, plant(text, {}), {"Add": 2, "Gather": 1, "Mul": 1}, tolerance=0)


def test_node_with_several_results_folds(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = "(float[N,2] x) => (float[N,2] y) { a, b = Split<num_outputs = 2>(W) c = Mul(x, a) y = Add(c, b) }"
    rewrites(fold_constants, plant(text, {"W": np.ones(4, np.float32)}), {"Add": 1, "Mul": 1}, tolerance=0)


def test_large_weight_is_transposed_once(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = "(float[N,900] x) => (float[N,900] y) { t = Transpose(W) y = MatMul(x, t) }"
    weights = {"W": np.arange(810_000, dtype=np.float32).reshape(900, 900) / 810_000}
    rewrites(fold_constants, plant(text, weights), {"MatMul": 1}, tolerance=1e-4)


def test_constant_that_a_subgraph_reads_keeps_its_name(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = """(float[N] x, bool flag) => (float[N] y) {
        a = Neg(W)
        y = If(flag) <
            then_branch = first () => (float[N] t) { t = Mul(x, a) },
            else_branch = second () => (float[N] e) { e = Neg(x) }
        >
    }"""
    graph = plant(text, {"W": np.ones(1, np.float32)})
    result = fold_constants(graph)
    assert result.graph.op_counts() == {"If": 1}
    assert [tensor.name for tensor in result.graph.model.graph.initializer] == ["W", "a"]


def test_result_larger_than_its_parts_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N,1] x) => (float[N,1000000] y) { a = Expand(one, shape) y = Mul(x, a) }"
    weights = {"one": np.ones(1, np.float32), "shape": np.array([1_000_000], np.int64)}
    declines(fold_constants, plant(text, weights), "4000000 bytes")


def test_result_of_unknown_size_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(int64[N] x) => (int64[M,K] y) { a = NonZero(W) y = Mul(x, a) }"
    declines(fold_constants, plant(text, {"W": np.ones(2, np.float32)}), "unknown number of bytes")


def test_copy_of_a_large_weight_that_others_need_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = """(int64[N] i) => (float[N,1000] y) {
        e = Gather(W, i)
        t = Transpose(W)
        y = MatMul(e, t)
    }"""
    declines(fold_constants, plant(text, {"W": np.ones((1000, 300), np.float32)}), "'W', which others need")


def test_random_numbers_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N,2] x) => (float[N,2] y) { r = RandomNormalLike(W) y = Add(x, r) }"
    declines(fold_constants, plant(text, {"W": np.ones(2, np.float32)}), "not a fixed value")


def test_quantized_weights_stay_quantized(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N,2] x) => (float[N,2] y) { w = DequantizeLinear(q, s) y = Mul(x, w) }"
    weights = {"q": np.ones(2, np.int8), "s": np.array(0.5, np.float32)}
    declines(fold_constants, plant(text, weights), "kept quantized")


def test_output_of_the_graph_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N] x) => (float[N] y, float[2] z) { y = Relu(x) z = Neg(W) }"
    declines(fold_constants, plant(text, {"W": np.ones(2, np.float32)}), "output of the graph")


def test_constant_node_that_is_an_output_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = "(float[N] x) => (float[N] y, float z) { y = Relu(x) z = Constant<value_float = 0.5>() }"
    declines(fold_constants, plant(text, {}), "output of the graph")


def test_node_that_fails_stays_and_says_why(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N] x) => (float[N] y) { a = Gather(W, i) y = Mul(x, a) }"
    weights = {"W": np.ones(2, np.float32), "i": np.array(7, np.int64)}
    declines(fold_constants, plant(text, weights), "cannot be computed")
