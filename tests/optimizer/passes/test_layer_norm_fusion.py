from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.layer_norm_fusion import fuse_layer_norms

_RANDOM = np.random.default_rng(12)
LAYER_NORM = """(float[N,3,8] x) => (float[N,3,8] y) {
    mean = ReduceMean(x, axes)
    below = Sub(x, mean)
    square = Pow(below, two)
    variance = ReduceMean(square, axes)
    shifted = Add(variance, epsilon)
    root = Sqrt(shifted)
    quotient = Div(below, root)
    scaled = Mul(quotient, gamma)
    y = Add(scaled, beta)
}"""
BY_ATTRIBUTE = LAYER_NORM.replace("ReduceMean(x, axes)", "ReduceMean<axes = [-1]>(x)").replace(
    "ReduceMean(square, axes)", "ReduceMean<axes = [-1]>(square)"
)


def _weights(*shape: int, axes: tuple[int, ...] = (-1,)) -> dict[str, Array]:
    gamma, beta = (_RANDOM.standard_normal(shape).astype(np.float32) for _ in range(2))
    numbers = {"two": np.array(2, np.float32), "epsilon": np.array(1e-3, np.float32)}
    return {"gamma": gamma, "beta": beta, "axes": np.array(axes, np.int64), **numbers}


def test_nine_nodes_become_one(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(LAYER_NORM, _weights(8))
    rewrites(fuse_layer_norms, graph, {"LayerNormalization": 1}, tolerance=1e-5)


def test_axes_by_attribute_fuse_in_opset_17(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    weights = _weights(8)
    del weights["axes"]
    rewrites(fuse_layer_norms, plant(BY_ATTRIBUTE, weights, 17), {"LayerNormalization": 1}, tolerance=1e-5)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("Pow(below, two)", "Mul(below, below)"),
        ("Add(variance, epsilon)", "Add(epsilon, variance)"),
        ("quotient = Div(below, root)", "inverse = Reciprocal(root) quotient = Mul(below, inverse)"),
        ("quotient = Div(below, root)", "twin = Sub(x, mean) quotient = Div(twin, root)"),
        ("Mul(quotient, gamma)", "Mul(gamma, quotient)"),
        ("Add(scaled, beta)", "Add(beta, scaled)"),
    ],
)
def test_every_spelling_fuses(
    written: str, instead: str, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    graph = plant(LAYER_NORM.replace(written, instead), _weights(8))
    rewrites(fuse_layer_norms, graph, {"LayerNormalization": 1}, tolerance=1e-5)


def test_several_trailing_axes_fuse(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(LAYER_NORM, _weights(3, 8, axes=(2, 1)))
    rewrites(fuse_layer_norms, graph, {"LayerNormalization": 1}, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 8)])
def test_parameters_are_brought_into_the_normalized_shape(
    shape: tuple[int, ...], plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    rewrites(fuse_layer_norms, plant(LAYER_NORM, _weights(*shape)), {"LayerNormalization": 1}, tolerance=1e-5)


def test_missing_beta_fuses(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = LAYER_NORM.replace("scaled = Mul", "y = Mul").replace("y = Add(scaled, beta)", "")
    rewrites(fuse_layer_norms, plant(text, _weights(8)), {"LayerNormalization": 1}, tolerance=1e-5)


def test_scaled_value_that_others_read_leaves_the_addition_outside(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = LAYER_NORM.replace("] y)", "] y, float[N,3,8] scaled)")
    rewrites(fuse_layer_norms, plant(text, _weights(8)), {"Add": 1, "LayerNormalization": 1}, tolerance=1e-5)


def test_opset_without_the_operator_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = _weights(8)
    del weights["axes"]
    declines(fuse_layer_norms, plant(BY_ATTRIBUTE, weights, 16), "opset 17 is needed")


@pytest.mark.parametrize(("axes", "shape"), [((1,), (3, 1)), ((0,), (8,)), ((0, 2), (8,))])
def test_axes_that_do_not_trail_are_declined(
    axes: tuple[int, ...], shape: tuple[int, ...], plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    declines(fuse_layer_norms, plant(LAYER_NORM, _weights(*shape, axes=axes)), "same trailing axes")


def test_means_over_different_axes_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = LAYER_NORM.replace("ReduceMean(square, axes)", "ReduceMean(square, others)")
    weights = {**_weights(8), "others": np.array([1, 2], np.int64)}
    declines(fuse_layer_norms, plant(text, weights), "same trailing axes")


def test_mean_that_drops_its_axes_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = LAYER_NORM.replace("float[N,3,8]", "float[8]").replace("ReduceMean(", "ReduceMean<keepdims = 0>(")
    declines(fuse_layer_norms, plant(text, _weights(8)), "drops its axes")


def test_open_size_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(fuse_layer_norms, plant(LAYER_NORM.replace("[N,3,8]", "[N,3,K]"), _weights(1)), "open sizes")


def test_double_precision_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in _weights(8).items()
    }
    declines(fuse_layer_norms, plant(LAYER_NORM.replace("float", "double"), weights), "FP32")


def test_factor_of_another_shape_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(
        fuse_layer_norms, plant(LAYER_NORM, {**_weights(8), "gamma": np.ones((3, 1), np.float32)}), "factor is not"
    )


def test_nothing_that_scales_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = LAYER_NORM.replace("scaled = Mul(quotient, gamma)", "").replace("Add(scaled, beta)", "Add(quotient, beta)")
    declines(fuse_layer_norms, plant(text, _weights(8)), "nothing scales")


@pytest.mark.parametrize("value", ["mean", "below", "variance", "quotient"])
def test_intermediate_value_that_others_read_is_declined(
    value: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = LAYER_NORM.replace("] y)", "] y, float[N,3,K] z)").replace("\n}", f" z = Relu({value}) }}")
    declines(fuse_layer_norms, plant(text, _weights(8)), f"'{value}' is also used by Relu 'z'")


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("Pow(below, two)", "Pow(below, epsilon)"),
        ("Mul(quotient, gamma)", "Mul(quotient, quotient)"),
        ("Div(below, root)", "Div(root, below)"),
        ("Div(below, root)", "Div(x, root)"),
    ],
)
def test_something_similar_is_left_alone(written: str, instead: str, plant: Callable[..., Graph]) -> None:
    assert not fuse_layer_norms(plant(LAYER_NORM.replace(written, instead), _weights(8))).changed
