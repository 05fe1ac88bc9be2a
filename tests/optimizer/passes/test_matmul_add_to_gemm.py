from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.matmul_add_to_gemm import fuse_matmul_adds

_RANDOM = np.random.default_rng(10)
MATMUL_ADD = "(float[N,5] x) => (float[N,4] y) { m = MatMul(x, W) y = Add(m, b) }"


def _normal(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("order", ["Add(m, b)", "Add(b, m)"])
def test_matrix_product_and_its_addend_become_one(
    shape: tuple[int, ...], order: str, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    graph = plant(MATMUL_ADD.replace("Add(m, b)", order), {"W": _normal(5, 4), "b": _normal(*shape)})
    rewrites(fuse_matmul_adds, graph, {"Gemm": 1}, tolerance=1e-5)


def test_matrices_that_are_fed_fuse_too(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = MATMUL_ADD.replace(" x)", " x, float[5,4] W, float[4] b)")
    rewrites(fuse_matmul_adds, plant(text, {}), {"Gemm": 1}, tolerance=1e-5)


def test_addend_that_is_computed_later_still_comes_before_the_gemm(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = MATMUL_ADD.replace("y = Add(m, b)", "c = Relu(b) y = Add(m, c)")
    graph = plant(text, {"W": _normal(5, 4), "b": _normal(4)})
    rewrites(fuse_matmul_adds, graph, {"Gemm": 1, "Relu": 1}, tolerance=1e-5)


def test_higher_rank_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = MATMUL_ADD.replace("[N,5]", "[N,3,5]").replace("[N,4]", "[N,3,4]")
    declines(fuse_matmul_adds, plant(text, {"W": _normal(5, 4), "b": _normal(4)}), "not of rank 2")


def test_vector_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = MATMUL_ADD.replace("[N,5]", "[5]").replace("[N,4]", "[4]")
    declines(fuse_matmul_adds, plant(text, {"W": _normal(5, 4), "b": _normal(4)}), "not of rank 2")


@pytest.mark.parametrize(("shape", "output"), [((3, 1, 4), "[3,N,4]"), ((3, 4), "[M,4]")])
def test_addend_that_widens_the_product_is_declined(
    shape: tuple[int, ...], output: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = MATMUL_ADD.replace("[N,4]", output)
    declines(fuse_matmul_adds, plant(text, {"W": _normal(5, 4), "b": _normal(*shape)}), "does not broadcast")


def test_addend_of_open_width_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant(MATMUL_ADD.replace(" x)", " x, float[K] b)"), {"W": _normal(5, 4)})
    declines(fuse_matmul_adds, graph, "does not broadcast")


def test_integers_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = MATMUL_ADD.replace("float", "int32")
    weights = {"W": np.ones((5, 4), np.int32), "b": np.ones(4, np.int32)}
    declines(fuse_matmul_adds, plant(text, weights), "floating point")


def test_product_that_someone_else_reads_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = MATMUL_ADD.replace("] y)", "] y, float[N,4] m)")
    declines(fuse_matmul_adds, plant(text, {"W": _normal(5, 4), "b": _normal(4)}), "'m' is an output")


def test_product_added_to_itself_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(fuse_matmul_adds, plant(MATMUL_ADD.replace("(m, b)", "(m, m)"), {"W": _normal(5, 4)}), "does not broad")


def test_opset_that_broadcasts_by_attribute_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    graph = plant(MATMUL_ADD.replace("Add(", "Add<broadcast = 1>("), {"W": _normal(5, 4), "b": _normal(4)}, opset=6)
    declines(fuse_matmul_adds, graph, "opset 7 is needed")
