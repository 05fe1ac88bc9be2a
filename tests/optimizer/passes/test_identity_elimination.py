from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.passes.identity_elimination import eliminate_identities


def test_identity_between_nodes_goes(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x) => (float[N] y) { a = Relu(x) b = Identity(a) c = Identity(b) y = Neg(c) }", {})
    rewrites(eliminate_identities, graph, {"Neg": 1, "Relu": 1}, tolerance=0)


def test_output_keeps_its_name(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x) => (float[N] y, float[N] z) { a = Relu(x) y = Identity(a) z = Neg(a) }", {})
    rewrites(eliminate_identities, graph, {"Neg": 1, "Relu": 1}, tolerance=0)


def test_identity_of_an_input_goes(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x) => (float[N] y) { a = Identity(x) y = Neg(a) }", {})
    rewrites(eliminate_identities, graph, {"Neg": 1}, tolerance=0)


def test_dropout_goes_where_it_does_not_train(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    for opset, dropout in ((10, "Dropout(a)"), (20, "Dropout(a)")):
        graph = plant(f"(float[N] x) => (float[N] y) {{ a = Relu(x) b = {dropout} y = Neg(b) }}", {}, opset)
        rewrites(eliminate_identities, graph, {"Neg": 1, "Relu": 1}, tolerance=0)


def test_dropout_marked_as_a_test_goes_before_opset_7(plant: Callable[..., Graph]) -> None:
    graph = plant("(float[N] x) => (float[N] y) { a = Relu(x) b = Dropout<is_test = 1>(a) y = Neg(b) }", {}, opset=6)
    assert eliminate_identities(graph).graph.op_counts() == {"Neg": 1, "Relu": 1}


def test_dropout_with_training_fixed_to_false_goes(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = "(float[N] x) => (float[N] y) { a = Dropout(x, ratio, training) y = Neg(a) }"
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(False)}
    rewrites(eliminate_identities, plant(text, weights), {"Neg": 1}, tolerance=0)


def test_dropout_that_trains_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N] x) => (float[N] y) { a = Dropout(x, ratio, training) y = Neg(a) }"
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    declines(eliminate_identities, plant(text, weights), "training mode")


def test_dropout_that_may_train_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N] x, bool training) => (float[N] y) { a = Dropout(x, ratio, training) y = Neg(a) }"
    declines(eliminate_identities, plant(text, {"ratio": np.array(0.5, np.float32)}), "or may")


def test_dropout_that_trains_by_default_is_declined_before_opset_7(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant("(float[N] x) => (float[N] y) { a = Dropout(x) y = Neg(a) }", {}, opset=6)
    declines(eliminate_identities, graph, "training mode")


def test_dropout_whose_mask_is_used_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant("(float[N] x) => (float[N] y, bool[N] mask) { a, mask = Dropout(x) y = Neg(a) }", {})
    declines(eliminate_identities, graph, "mask is used")


def test_input_handed_to_an_output_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(eliminate_identities, plant("(float[N] x) => (float[N] y) { y = Identity(x) }", {}), "'x', an input or")


def test_weight_handed_to_an_output_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = "(float[N] x) => (float[N] y, float[2] z) { y = Neg(x) z = Identity(W) }"
    declines(eliminate_identities, plant(text, {"W": np.ones(2, np.float32)}), "'W', an input or a weight")


def test_output_handed_to_an_output_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant("(float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Identity(y) }", {})
    declines(eliminate_identities, graph, "hands the output 'y'")


def test_value_that_a_subgraph_reads_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = """(float[N] x, bool flag) => (float[N] y) {
        a = Identity(x)
        y = If(flag) <
            then_branch = first () => (float[N] t) { t = Relu(a) },
            else_branch = second () => (float[N] e) { e = Neg(x) }
        >
    }"""
    declines(eliminate_identities, plant(text, {}), "a subgraph uses the value")
