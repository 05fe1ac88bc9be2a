"""What a spec takes, and how it reads."""

import pytest

from enginehouse.dtype import DTYPES
from enginehouse.tensor import TensorSpec, shape_fits

SPECS = (TensorSpec("x", DTYPES["FP32"], (-1, 3)), TensorSpec("words", DTYPES["BYTES"], (-1,)))


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
