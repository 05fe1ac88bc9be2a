from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from optimizer.evaluate.kept_outputs import KeptOutputs

ARRAYS: list[Array] = [
    np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
    np.array([1.5, -3.0], DTYPES["BF16"].numpy),
    np.array([[2**40]], np.int64),
    np.array([["a", ""], ["日本", " b "]], dtype=object),
    np.zeros((0, 3), np.float16),
    np.array(True),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_an_array_comes_back_as_it_was(array: Array, tmp_path: Path) -> None:
    kept = KeptOutputs(tmp_path / "kept")
    kept.append({"y": array})
    (found,) = kept.read()
    assert (found["y"].dtype, found["y"].shape) == (array.dtype, array.shape)
    assert np.array_equal(found["y"], array, equal_nan=array.dtype.kind == "f")


def test_batches_of_any_shape_come_back_in_order_and_as_often_as_asked(tmp_path: Path) -> None:
    kept = KeptOutputs(tmp_path / "kept")
    for rows in (3, 1, 2):
        kept.append({"y": np.full((rows, 2), rows), "z": np.full(rows, 7.0)})
    for _ in range(2):
        assert [(outputs["y"].tolist()[0], len(outputs["z"])) for outputs in kept.read()] == [
            ([3, 3], 3),
            ([1, 1], 1),
            ([2, 2], 2),
        ]


def test_text_as_bytes_comes_back_as_text(tmp_path: Path) -> None:
    kept = KeptOutputs(tmp_path / "kept")
    kept.append({"y": np.array([b"cat"], dtype=object)})
    (found,) = kept.read()
    assert found["y"].tolist() == ["cat"]
