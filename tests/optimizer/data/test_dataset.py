import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.data.dataset import DataSet, open_data

X = TensorSpec("x", DTYPES["FP32"], (-1, 2))


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def save_named(path: Path, arrays: dict[str, Array]) -> Path:
    return save(path, **arrays)


def opened(path: Path) -> DataSet:
    data = open_data(str(path), [X], True, 0, None)
    assert data is not None
    return data


def rows_of(data: DataSet, split: str) -> NDArray[np.generic]:
    return np.concatenate([batch.feeds["x"] for batch in data.batches(split, 4)])


def numbered(start: int, rows: int) -> Array:
    return np.repeat(np.arange(start, start + rows, dtype=np.float32)[:, None], 2, axis=1)


def test_named_splits_are_read_as_they_are(tmp_path: Path) -> None:
    path = save_named(tmp_path / "a.npz", {"validation/x": numbered(0, 5), "test/x": numbered(9, 2)})
    data = opened(path)
    assert data.rows == {"train": 0, "calibration": 0, "validation": 5, "test": 2}
    assert not data.is_split_here
    np.testing.assert_array_equal(rows_of(data, "validation"), numbered(0, 5))
    assert list(data.batches("train", 4)) == []
    assert str(data) == "7 rows: validation 5, test 2, without labels"


def test_labels_travel_with_their_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=numbered(0, 48), label=np.arange(48) % 4)
    data = opened(path)
    for split in ("calibration", "validation", "test"):
        for batch in data.batches(split, 3):
            assert batch.labels is not None
            np.testing.assert_array_equal(batch.feeds["x"][:, 0] % 4, batch.labels)


def test_rows_without_a_split_are_split_the_same_way_each_time(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=numbered(0, 48), label=np.arange(48) % 4)
    first, second = opened(path), opened(path)
    assert first.rows == {"train": 0, "calibration": 12, "validation": 24, "test": 12}
    assert "split here" in str(first)
    seen = [rows_of(first, split)[:, 0] for split in ("calibration", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(48))
    np.testing.assert_array_equal(rows_of(first, "test"), rows_of(second, "test"))


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    save_named(tmp_path / "b.npz", {"validation/x": numbered(3, 3)})
    save_named(tmp_path / "a.npz", {"validation/x": numbered(0, 3), "test/x": numbered(7, 1)})
    data = opened(tmp_path)
    np.testing.assert_array_equal(rows_of(data, "validation"), numbered(0, 6))
    assert [batch.rows for batch in data.batches("validation", 4)] == [4, 2]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    wide = TensorSpec("x", DTYPES["FP32"], (-1, 4096))
    peaks = []
    for rows in (1000, 8000):
        path = tmp_path / f"{rows}.npz"
        np.savez_compressed(path, **{"validation/x": np.zeros((rows, 4096), np.float32)})  # type: ignore[arg-type]
        data = DataSet([path], [wide], True, 0)
        tracemalloc.start()
        assert sum(batch.rows for batch in data.batches("validation", 32)) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 30_000_000, "all rows take 131 MB"


BROKEN: list[tuple[dict[str, Array], str]] = [
    ({"validation/y": numbered(0, 3)}, r"has no array 'validation/x'; found validation/y\. The model takes x FP32"),
    ({"validation/x": numbered(0, 3), "validation/z": numbered(0, 3)}, "'validation/z' .* fits no input"),
    ({"validation/x": np.zeros((3, 5), np.float32)}, r"rows of shape \[5\]; the model takes \[-1, 2\]"),
    ({"validation/x": numbered(0, 0)}, "is empty: 0 rows"),
    ({}, "is empty: it holds no array"),
    ({"x": numbered(0, 3), "test/x": numbered(0, 3)}, "'x' has no split and 'test/x' has one"),
    ({"validation/x": numbered(0, 3), "validation/label": np.zeros(2)}, "differ in length"),
]


@pytest.mark.parametrize(("arrays", "message"), BROKEN)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        opened(save_named(tmp_path / "a.npz", arrays))


def test_nan_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = save_named(tmp_path / "a.npz", {"validation/x": np.array([[1, np.nan]], np.float32)})
    with pytest.raises(InvalidInput, match="validation/x holds NaN"):
        rows_of(opened(path), "validation")


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        opened(tmp_path / "nothing.npz")
    with pytest.raises(InvalidInput, match=r"no \.npz file found"):
        opened(tmp_path)


def test_labels_are_only_there_if_every_judged_split_has_them(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {"validation/x": numbered(0, 3), "validation/label": np.zeros(3, int)}
    assert opened(save_named(tmp_path / "a.npz", arrays)).has_labels
    arrays["calibration/x"] = numbered(0, 3)
    assert opened(save_named(tmp_path / "b.npz", arrays)).has_labels
    arrays["test/x"] = numbered(0, 3)
    assert not opened(save_named(tmp_path / "c.npz", arrays)).has_labels


def test_a_row_function_is_run_elsewhere_and_its_rows_are_read(tmp_path: Path) -> None:
    source = tmp_path / "rows.py"
    source.write_text(
        "import numpy as np\n"
        "def rows():\n"
        "    print('noise of the user')\n"
        "    for number in range(40):\n"
        "        yield {'x': np.full(2, number, np.float32), 'label': number % 2}\n"
    )
    workdir = tmp_path / "work"
    workdir.mkdir()
    assert open_data(f"{source}:rows", [X], True, 0, None) is None
    data = open_data(f"{source}:rows", [X], True, 0, workdir)
    assert data is not None
    assert data.has_labels
    assert data.rows["validation"] == 20
    seen = [row for split in ("calibration", "validation", "test") for row in rows_of(data, split)[:, 0].tolist()]
    assert sorted(seen) == list(range(40))


def test_the_fingerprint_is_of_the_rows_and_not_of_how_they_are_stored(tmp_path: Path) -> None:
    arrays = {"x": numbered(0, 48), "label": np.arange(48) % 4}
    turned = dict(reversed(arrays.items()))
    plain, packed = tmp_path / "plain.npz", tmp_path / "packed.npz"
    np.savez(plain, **arrays)  # type: ignore[arg-type]
    np.savez_compressed(packed, **turned)  # type: ignore[arg-type]
    assert DataSet([plain], [X], True, 0).fingerprint() == DataSet([packed], [X], True, 0).fingerprint()


OTHER_DATA: list[tuple[dict[str, Array], int]] = [
    ({"x": numbered(1, 48), "label": np.arange(48) % 4}, 0),
    ({"x": numbered(0, 48)[::-1], "label": np.arange(48) % 4}, 0),
    ({"x": numbered(0, 48), "label": np.arange(48) % 3}, 0),
    ({"x": numbered(0, 48)}, 0),
    ({"x": numbered(0, 47), "label": np.arange(47) % 4}, 0),
    ({"x": numbered(0, 48).astype(np.float64), "label": np.arange(48) % 4}, 0),
    ({"test/x": numbered(0, 48), "test/label": np.arange(48) % 4}, 0),
    ({"x": numbered(0, 48), "label": np.arange(48) % 4}, 1),
]


@pytest.mark.parametrize(
    ("arrays", "seed"),
    OTHER_DATA,
    ids=["a row", "order", "labels", "no labels", "fewer", "element type", "splits", "seed of the splits"],
)
def test_other_data_has_another_fingerprint(tmp_path: Path, arrays: dict[str, Array], seed: int) -> None:
    save(tmp_path / "first.npz", x=numbered(0, 48), label=np.arange(48) % 4)
    save_named(tmp_path / "other.npz", arrays)
    first = DataSet([tmp_path / "first.npz"], [X], True, 0)
    assert DataSet([tmp_path / "other.npz"], [X], True, seed).fingerprint() != first.fingerprint()


def test_the_fingerprint_reads_large_data_in_parts(tmp_path: Path) -> None:
    wide = TensorSpec("x", DTYPES["FP32"], (-1, 4096))
    rows = np.zeros((4000, 4096), np.float32)
    np.savez_compressed(tmp_path / "a.npz", **{"validation/x": rows})  # type: ignore[arg-type]
    rows[-1, -1] = 1
    np.savez_compressed(tmp_path / "b.npz", **{"validation/x": rows})  # type: ignore[arg-type]
    del rows
    first, second = (DataSet([tmp_path / name], [wide], True, 0) for name in ("a.npz", "b.npz"))
    tracemalloc.start()
    assert first.fingerprint() != second.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000, "all rows take 65 MB"
