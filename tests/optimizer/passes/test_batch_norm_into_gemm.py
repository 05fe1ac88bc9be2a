from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.batch_norm_into_gemm import fold_batch_norms_into_gemms

_RANDOM = np.random.default_rng(11)
GEMM_NORM = """(float[N,5] x) => (float[N,4] y) {
    g = Gemm(x, W, b)
    y = BatchNormalization(g, gamma, beta, mean, variance)
}"""
MATMUL_NORM = GEMM_NORM.replace("Gemm(x, W, b)", "MatMul(x, W)")


def _normal(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _weights(*bias: int) -> dict[str, Array]:
    norm = {name: _normal(4) for name in ("gamma", "beta", "mean")}
    return {"W": _normal(5, 4), "b": _normal(*bias), **norm, "variance": np.square(_normal(4)) + np.float32(0.1)}


@pytest.mark.parametrize("bias", [(), (1,), (4,), (1, 4), (1, 1)])
def test_gemm_takes_the_norm_in(
    bias: tuple[int, ...], plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    rewrites(fold_batch_norms_into_gemms, plant(GEMM_NORM, _weights(*bias)), {"Gemm": 1}, tolerance=1e-4)


def test_alpha_and_beta_are_counted(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(GEMM_NORM.replace("Gemm(", "Gemm<alpha = 0.5, beta = 3.0>("), _weights(4))
    rewrites(fold_batch_norms_into_gemms, graph, {"Gemm": 1}, tolerance=1e-4)


def test_transposed_weights_are_scaled_by_row(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(GEMM_NORM.replace("Gemm(", "Gemm<transB = 1>("), {**_weights(4), "W": _normal(4, 5)})
    rewrites(fold_batch_norms_into_gemms, graph, {"Gemm": 1}, tolerance=1e-4)


def test_transposed_input_stays_transposed(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = GEMM_NORM.replace("Gemm(", "Gemm<transA = 1>(").replace("float[N,5]", "float[5,3]").replace("[N,4]", "[3,4]")
    rewrites(fold_batch_norms_into_gemms, plant(text, _weights(4)), {"Gemm": 1}, tolerance=1e-4)


def test_gemm_without_a_bias_gets_one(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(GEMM_NORM.replace(", b)", ")"), _weights(4))
    rewrites(fold_batch_norms_into_gemms, graph, {"Gemm": 1}, tolerance=1e-4)


def test_matmul_becomes_a_gemm(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    rewrites(fold_batch_norms_into_gemms, plant(MATMUL_NORM, _weights(4)), {"Gemm": 1}, tolerance=1e-4)


def test_matmul_whose_last_axis_is_not_the_channels_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = MATMUL_NORM.replace("[N,5]", "[N,4,5]").replace("[N,4]", "[N,4,4]")
    declines(fold_batch_norms_into_gemms, plant(text, _weights(4)), "both sides have rank 2")


def test_training_mode_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = GEMM_NORM.replace("y = Batch", "y, m2, v2 = Batch").replace("tion(", "tion<training_mode = 1>(")
    declines(fold_batch_norms_into_gemms, plant(text, _weights(4)), "training mode")


def test_bias_that_varies_by_row_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = GEMM_NORM.replace("[N,5]", "[3,5]").replace("[N,4]", "[3,4]")
    declines(fold_batch_norms_into_gemms, plant(text, _weights(3, 4)), "varies by row")


@pytest.mark.parametrize(("fed", "reason"), [("float[5,4] W", "weights"), ("float[4] b", "bias")])
def test_what_is_fed_is_declined(
    fed: str, reason: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    weights = {name: array for name, array in _weights(4).items() if name != fed[-1]}
    declines(fold_batch_norms_into_gemms, plant(GEMM_NORM.replace(" x)", f" x, {fed})"), weights), f"the {reason} of")


def test_statistics_that_are_fed_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = _weights(4)
    del weights["variance"]
    graph = plant(GEMM_NORM.replace(" x)", " x, float[4] variance)"), weights)
    declines(fold_batch_norms_into_gemms, graph, "parameters are not constant")


def test_product_that_someone_else_reads_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = GEMM_NORM.replace("] y)", "] y, float[N,4] z)").replace("\n}", " z = Relu(g) }")
    declines(fold_batch_norms_into_gemms, plant(text, _weights(4)), "also used by Relu")


def test_weights_that_would_overflow_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = {**_weights(4), "gamma": np.full(4, 6e4, np.float32), "W": 100 * _normal(5, 4)}
    graph = plant(GEMM_NORM.replace("float[", "float16["), {k: v.astype(np.float16) for k, v in weights.items()})
    declines(fold_batch_norms_into_gemms, graph, "overflow float16")


def test_old_opset_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = GEMM_NORM.replace("Gemm(", "Gemm<broadcast = 1>(").replace("tion(", "tion<is_test = 1>(")
    declines(fold_batch_norms_into_gemms, plant(text, _weights(4), opset=6), "opset 7 is needed")
