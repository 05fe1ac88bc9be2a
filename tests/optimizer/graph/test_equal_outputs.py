import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.equal_outputs import TOLERANCES, difference


def _y(*numbers: float, kind: str = "float32") -> dict[str, Array]:
    return {"y": np.array(numbers, kind)}


@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
def test_tolerance_is_a_share_of_the_largest_number(kind: str) -> None:
    largest = 100.0
    near, far = largest * TOLERANCES[kind] * 0.9, largest * TOLERANCES[kind] * 2
    assert difference(_y(largest, 0, kind=kind), _y(largest, near, kind=kind)) is None
    assert difference(_y(largest, 0, kind=kind), _y(largest, far, kind=kind)) is not None


def test_zeros_have_a_smallest_scale() -> None:
    assert difference(_y(0, 0), _y(0, 1e-8)) is None
    assert difference(_y(0, 0), _y(0, 1e-6)) is not None


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_agrees_only_with_its_like(odd: float) -> None:
    assert difference(_y(1, odd), _y(1, odd)) is None
    assert difference(_y(1, odd), _y(1, 1)) == "output 'y' differs where it is not finite"
    assert difference(_y(1, 1), _y(1, odd)) == "output 'y' is not finite where it should be"


def test_infinities_of_other_sign_differ() -> None:
    assert difference(_y(np.inf), _y(-np.inf)) is not None


def test_whole_numbers_and_text_must_be_equal() -> None:
    assert difference(_y(1, 2, kind="int64"), _y(1, 2, kind="int64")) is None
    assert difference(_y(1, 2, kind="int64"), _y(1, 3, kind="int64")) == "output 'y' differs in 1 of 2 elements"
    words = {"y": np.array(["a", "b"], object)}
    assert difference(words, {"y": np.array(["a", "b"], object)}) is None
    assert difference(words, {"y": np.array(["a", "c"], object)}) is not None


def test_shape_type_and_presence_are_compared() -> None:
    assert difference(_y(1), _y(1, 1)) == "output 'y' has shape [2] instead of [1]"
    assert difference(_y(1), _y(1, kind="float64")) == "output 'y' is float64 instead of float32"
    assert difference(_y(1), {}) == "output 'y' is missing"


def test_nothing_agrees_with_nothing() -> None:
    assert difference(_y(), _y()) is None
    assert difference(_y(np.nan), _y(np.nan)) is None
