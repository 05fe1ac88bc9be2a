import math
from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.gelu_fusion import fuse_gelus

GELU = """(float[N,8] x) => (float[N,8] y) {
    scaled = Div(x, root_two)
    erf = Erf(scaled)
    plus = Add(erf, one)
    product = Mul(x, plus)
    y = Mul(product, half)
}"""


def _weights(kind: type[np.floating] = np.float32) -> dict[str, Array]:
    numbers = {"root_two": math.sqrt(2), "inverse": 1 / math.sqrt(2), "one": 1, "half": 0.5, "two": 2}
    return {name: np.array(number, kind) for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("", ""),
        ("Div(x, root_two)", "Mul(x, inverse)"),
        ("Div(x, root_two)", "Mul(inverse, x)"),
        ("Add(erf, one)", "Add(one, erf)"),
        ("Mul(x, plus)", "Mul(plus, x)"),
        ("Mul(product, half)", "Mul(half, product)"),
        ("product = Mul(x, plus) y = Mul(product, half)", "product = Mul(x, half) y = Mul(product, plus)"),
        ("product = Mul(x, plus) y = Mul(product, half)", "product = Div(x, two) y = Mul(plus, product)"),
        ("product = Mul(x, plus) y = Mul(product, half)", "product = Mul(plus, half) y = Mul(x, product)"),
    ],
)
def test_every_spelling_becomes_one_node(
    written: str, instead: str, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    text = " ".join(GELU.split())
    assert written in text
    rewrites(fuse_gelus, plant(text.replace(written, instead), _weights()), {"Gelu": 1}, tolerance=1e-5)


def test_half_precision_fuses(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(GELU.replace("float[", "float16["), _weights(np.float16))
    rewrites(fuse_gelus, graph, {"Gelu": 1}, tolerance=5e-3)


def test_opset_without_the_operator_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    declines(fuse_gelus, plant(GELU, _weights(), 19), "opset 20 is needed")


@pytest.mark.parametrize(
    ("written", "instead", "reason"),
    [
        ("Div(x, root_two)", "Div(x, two)", "not x / sqrt(2)"),
        ("Div(x, root_two)", "Div(root_two, x)", "not x / sqrt(2)"),
        ("Div(x, root_two)", "Neg(x)", "not x / sqrt(2)"),
        ("Add(erf, one)", "Add(erf, two)", "nothing adds 1"),
        ("Mul(x, plus)", "Mul(erf, plus)", "not x * 0.5"),
        ("Mul(x, plus)", "Neg(plus)", "not x * 0.5"),
        ("Mul(product, half)", "Mul(product, two)", "not x * 0.5"),
        ("Mul(product, half)", "Neg(product)", "not x * 0.5"),
    ],
)
def test_something_similar_is_declined(
    written: str, instead: str, reason: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    declines(fuse_gelus, plant(GELU.replace(written, instead), _weights()), reason)


def test_constant_that_raises_the_rank_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = GELU.replace("=> (float[N,8] y)", "=> (float[1,N,8] y)")
    declines(fuse_gelus, plant(text, {**_weights(), "half": np.full((1, 1, 1), 0.5, np.float32)}), "not x * 0.5")


@pytest.mark.parametrize("value", ["scaled", "erf", "plus", "product"])
def test_intermediate_value_that_others_read_is_declined(
    value: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = GELU.replace("] y)", "] y, float[N,8] z)").replace("\n}", f" z = Relu({value}) }}")
    declines(fuse_gelus, plant(text, _weights()), f"'{value}' is also used by Relu 'z'")
