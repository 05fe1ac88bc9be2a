from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.batch_norm_into_conv import fold_batch_norms_into_convs

_RANDOM = np.random.default_rng(7)
CONV_NORM = """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
    c = Conv(x, W, b)
    y = BatchNormalization<epsilon = 0.01>(c, gamma, beta, mean, variance)
}"""


def _normal(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _norm(channels: int) -> dict[str, Array]:
    names = ("gamma", "beta", "mean")
    return {name: _normal(channels) for name in names} | {"variance": np.square(_normal(channels)) + np.float32(0.1)}


def test_conv_with_bias_takes_the_norm_in(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(CONV_NORM, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    rewrites(fold_batch_norms_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


def test_conv_without_bias_gets_one(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(CONV_NORM.replace(", b)", ")"), {"W": _normal(4, 3, 3, 3), **_norm(4)})
    rewrites(fold_batch_norms_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


def test_constant_nodes_serve_as_weights(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = """(float[N,1,4] x) => (float[N,1,4] y) {
        W = Constant<value = float[1,1,1] {2.0}>()
        c = Conv(x, W)
        y = BatchNormalization(c, gamma, beta, mean, variance)
    }"""
    graph = plant(text, _norm(1))
    rewrites(fold_batch_norms_into_convs, graph, {"Constant": 1, "Conv": 1}, tolerance=1e-4)


def test_two_norms_in_a_row_both_fold(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = CONV_NORM.replace("y =", "m =").replace("}", "y = BatchNormalization(m, gamma, beta, mean, variance) }")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    rewrites(fold_batch_norms_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv_scales_its_second_axis(
    groups: int, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = f"""(float[N,4,5,5] x) => (float[N,6,7,7] y) {{
        c = ConvTranspose<group = {groups}>(x, W, b)
        y = BatchNormalization(c, gamma, beta, mean, variance)
    }}"""
    graph = plant(text, {"W": _normal(4, 6 // groups, 3, 3), "b": _normal(6), **_norm(6)})
    rewrites(fold_batch_norms_into_convs, graph, {"ConvTranspose": 1}, tolerance=1e-4)


def test_grouped_conv_scales_every_group(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = CONV_NORM.replace("[N,3,8,8]", "[N,4,8,8]").replace("Conv(x", "Conv<group = 4>(x")
    graph = plant(text, {"W": _normal(4, 1, 3, 3), "b": _normal(4), **_norm(4)})
    rewrites(fold_batch_norms_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


def test_weights_shared_by_two_convs_stay_right(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
        c = Conv(x, W, b)
        z = Conv(x, W, b)
        y = BatchNormalization(c, gamma, beta, mean, variance)
    }"""
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    rewrites(fold_batch_norms_into_convs, graph, {"Conv": 2}, tolerance=1e-4)


def test_training_mode_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace("y = BatchN", "y, m2, v2 = BatchN").replace("<eps", "<training_mode = 1, eps")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    declines(fold_batch_norms_into_convs, graph, "training mode")


def test_training_by_its_number_of_outputs_is_declined_before_opset_14(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = CONV_NORM.replace("y = BatchN", "y, m2, v2, sm, sv = BatchN")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)}, opset=9)
    declines(fold_batch_norms_into_convs, graph, "training mode")


def test_training_by_default_is_declined_before_opset_7(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant(CONV_NORM, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)}, opset=6)
    declines(fold_batch_norms_into_convs, graph, "training mode")


def test_norm_of_every_position_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace("<eps", "<spatial = 0, eps")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)}, opset=8)
    declines(fold_batch_norms_into_convs, graph, "spatial = 0")


def test_conv_that_someone_else_reads_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace("y)", "y, float[N,4,6,6] z)").replace("}", "z = Relu(c) }")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    declines(fold_batch_norms_into_convs, graph, "'c' is also used by Relu 'z'")


def test_conv_that_is_an_output_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace("y)", "y, float[N,4,6,6] c)")
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    declines(fold_batch_norms_into_convs, graph, "'c' is an output of the graph")


def test_conv_that_a_subgraph_reads_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = """(float[N,3,8,8] x, bool flag) => (float[N,4,6,6] y, float[N,4,6,6] z) {
        c = Conv(x, W, b)
        y = BatchNormalization(c, gamma, beta, mean, variance)
        z = If(flag) <
            then_branch = first () => (float[N,4,6,6] t) { t = Relu(c) },
            else_branch = second () => (float[N,4,6,6] e) { e = Neg(c) }
        >
    }"""
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4)})
    declines(fold_batch_norms_into_convs, graph, "inside a subgraph")


def test_weights_that_are_fed_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace(" x)", " x, float[4,3,3,3] W)")
    graph = plant(text, {"b": _normal(4), **_norm(4)})
    declines(fold_batch_norms_into_convs, graph, "weights of Conv 'c' are not constant")


def test_statistics_that_are_fed_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace(" x)", " x, float[4] mean)")
    norm = {name: array for name, array in _norm(4).items() if name != "mean"}
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "b": _normal(4), **norm})
    declines(fold_batch_norms_into_convs, graph, "parameters are not constant")


def test_scale_that_is_not_finite_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = {"W": _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4), "gamma": np.full(4, np.inf, np.float32)}
    declines(fold_batch_norms_into_convs, plant(CONV_NORM, weights), "not finite")


def test_weights_that_would_overflow_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = CONV_NORM.replace("float[", "float16[")
    weights = {"W": 100 * _normal(4, 3, 3, 3), "b": _normal(4), **_norm(4), "gamma": np.full(4, 6e4, np.float32)}
    graph = plant(text, {name: array.astype(np.float16) for name, array in weights.items()})
    declines(fold_batch_norms_into_convs, graph, "overflow float16")
