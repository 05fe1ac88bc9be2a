from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.affine_into_conv import fold_affines_into_convs

_RANDOM = np.random.default_rng(8)


def _normal(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _text(arithmetic: str, more: str = "") -> str:
    return f"(float[N,3,8,8] x{more}) => (float[N,4,6,6] y) {{ c = Conv(x, W, b) y = {arithmetic} }}"


def _weights(constant: Array) -> dict[str, Array]:
    return {"W": _normal(4, 3, 3, 3), "b": _normal(4), "k": constant}


@pytest.mark.parametrize("arithmetic", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Sub(c, k)", "Sub(k, c)", "Div(c, k)"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1)])
def test_one_number_per_channel_folds(
    arithmetic: str, shape: tuple[int, ...], plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    constant = (np.abs(_normal(*shape)) + 0.5).astype(np.float32)
    graph = plant(_text(arithmetic), _weights(constant))
    rewrites(fold_affines_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


def test_chain_folds_node_after_node(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = _text("Add(s, k)").replace("y = ", "s = Mul(c, k) y = ")
    graph = plant(text, _weights(_normal(4, 1, 1)))
    rewrites(fold_affines_into_convs, graph, {"Conv": 1}, tolerance=1e-4)


def test_transposed_conv_folds(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = """(float[N,4,5,5] x) => (float[N,6,7,7] y) {
        c = ConvTranspose<group = 2>(x, W)
        y = Mul(c, k)
    }"""
    graph = plant(text, {"W": _normal(4, 3, 3, 3), "k": _normal(6, 1, 1)})
    rewrites(fold_affines_into_convs, graph, {"ConvTranspose": 1}, tolerance=1e-4)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (4, 6, 6), (1, 1, 1, 6)])
def test_constant_that_varies_by_position_is_declined(
    shape: tuple[int, ...], plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant(_text("Mul(c, k)"), _weights(_normal(*shape)))
    declines(fold_affines_into_convs, graph, "not one number per channel of 4")


def test_constant_that_widens_one_channel_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant(_text("Mul(c, k)"), {**_weights(_normal(4, 1, 1)), "W": _normal(1, 3, 3, 3), "b": _normal(1)})
    declines(fold_affines_into_convs, graph, "not one number per channel of 1")


def test_constant_that_varies_by_row_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = _text("Mul(c, k)").replace("float[N,4,6,6] y", "float[M,4,6,6] y")
    declines(fold_affines_into_convs, plant(text, _weights(_normal(3, 1, 1, 1))), "not one number per channel")


def test_constant_that_raises_the_rank_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = _text("Mul(c, k)").replace("float[N,4,6,6] y", "float[1,N,4,6,6] y")
    declines(fold_affines_into_convs, plant(text, _weights(_normal(1, 1, 4, 1, 1))), "not one number per channel")


def test_operand_that_is_fed_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = _weights(_normal(1))
    del weights["k"]
    declines(fold_affines_into_convs, plant(_text("Mul(c, k)", ", float[4,1,1] k"), weights), "is not constant")


def test_division_by_the_convolution_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(fold_affines_into_convs, plant(_text("Div(k, c)"), _weights(_normal(4, 1, 1))), "divides by the conv")


def test_division_by_zero_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant(_text("Div(c, k)"), _weights(np.zeros((4, 1, 1), np.float32)))
    declines(fold_affines_into_convs, graph, "divides by zero")


def test_square_of_the_convolution_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(fold_affines_into_convs, plant(_text("Mul(c, c)"), _weights(_normal(1))), "is not constant")


def test_two_convolutions_are_not_one_affine(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = _text("Add(c, d)").replace("y = ", "d = Conv(x, W, b) y = ")
    declines(fold_affines_into_convs, plant(text, _weights(_normal(1))), "is not constant")


def test_convolution_that_someone_else_reads_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = _text("Mul(c, k)").replace("] y)", "] y, float[N,4,6,6] z)").replace(" }", " z = Relu(c) }")
    declines(fold_affines_into_convs, plant(text, _weights(_normal(4, 1, 1))), "also used by Relu")


def test_weights_that_are_fed_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = _weights(_normal(4, 1, 1))
    del weights["W"]
    graph = plant(_text("Mul(c, k)", ", float[4,3,3,3] W"), weights)
    declines(fold_affines_into_convs, graph, "weights of Conv 'c' are not constant")


def test_opset_that_broadcasts_by_attribute_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant(_text("Mul<broadcast = 1, axis = 1>(c, k)"), _weights(_normal(4)), opset=6)
    declines(fold_affines_into_convs, graph, "opset 7 is needed")
