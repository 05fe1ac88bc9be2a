from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from optimizer.data.row_writer import write_shards


def loaded(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_rows_and_small_batches_are_joined(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"x": [1.0, 2.0], "label": 0},
        {"x": [[3.0, 4.0], [5.0, 6.0]], "label": [1, 2]},
    ]
    assert write_shards(items, {"x": 2}, tmp_path) == 1
    arrays = loaded(tmp_path / "000000.npz")
    np.testing.assert_array_equal(arrays["x"], [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(arrays["label"], [0, 1, 2])


def test_names_may_carry_a_split(tmp_path: Path) -> None:
    assert write_shards([{"test/x": [[1.0, 2.0]], "test/label": [4]}], {"x": 2}, tmp_path) == 1
    assert loaded(tmp_path / "000000.npz")["test/x"].shape == (1, 2)


def test_rows_of_another_shape_begin_another_file(tmp_path: Path) -> None:
    items = [{"x": np.zeros(2)}, {"x": np.zeros(2)}, {"x": np.zeros(3)}]
    assert write_shards(items, {"x": 2}, tmp_path) == 2
    assert loaded(tmp_path / "000001.npz")["x"].shape == (1, 3)


def test_files_are_of_bounded_size(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Array]]:
        for _ in range(40):
            yield {"x": np.zeros(1 << 17)}

    assert write_shards(rows(), {"x": 2}, tmp_path) == 3
    assert all(path.stat().st_size <= 18 << 20 for path in tmp_path.iterdir())


def test_no_rows_make_no_files(tmp_path: Path) -> None:
    assert write_shards([], {"x": 2}, tmp_path) == 0


def test_an_item_must_be_a_dict(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="yielded tuple; expected a dict"):
        write_shards([(1, 2)], {"x": 2}, tmp_path)  # type: ignore[list-item]


def test_an_item_without_any_input_says_what_the_model_takes(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"named \['y'\]; the model takes \['x'\]"):
        write_shards([{"y": 1}], {"x": 2}, tmp_path)


def test_a_batch_needs_a_label_for_each_row(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'label' is one number; one per row"):
        write_shards([{"x": np.zeros((2, 2)), "label": 1}], {"x": 2}, tmp_path)
