"""The check of arrays against specs names what is wrong."""

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec, check_tensors, shape_fits

SPECS = (TensorSpec("x", DTYPES["FP32"], (-1, 3)), TensorSpec("words", DTYPES["BYTES"], (-1,)))
GOOD = {"x": np.zeros((2, 3), np.float32), "words": np.array(["a", "b"], dtype=object)}


def test_what_fits_passes() -> None:
    check_tensors(GOOD, SPECS, "the model")
    check_tensors({**GOOD, "words": np.array(["a", "b"])}, SPECS, "the model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": GOOD["x"]}, "unexpected tensor 'y'; the model takes x, words"),
        ({"x": None}, "missing tensor 'x'; the model takes x, words"),
        ({"x": np.zeros((2, 3))}, "tensor 'x' is float64; the model takes FP32"),
        ({"x": np.zeros((2, 4), np.float32)}, r"tensor 'x' has shape \[2, 4\]; the model takes \[-1, 3\]"),
        ({"words": np.array([["a"]], dtype=object)}, r"'words' has shape \[1, 1\]"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Array | None], message: str) -> None:
    tensors = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    with pytest.raises(InvalidInput, match=message):
        check_tensors(tensors, SPECS, "the model")


@pytest.mark.parametrize(
    ("shape", "expected", "fits"),
    [
        ((2, 3), (-1, 3), True),
        ((0, 3), (-1, 3), True),
        ((2, 4), (-1, 3), False),
        ((3,), (-1, 3), False),
        ((), (), True),
        ((-1,), (3,), False),
    ],
)
def test_an_open_dimension_takes_any_size(shape: tuple[int, ...], expected: tuple[int, ...], fits: bool) -> None:
    assert shape_fits(shape, expected) is fits


def test_a_spec_reads_well_in_a_message() -> None:
    assert str(SPECS[0]) == "x FP32 [-1, 3]"
