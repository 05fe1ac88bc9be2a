import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from enginehouse.errors import InvalidInput
from optimizer.data.npz_stream import NpzFile


def test_chunks_give_every_row_once_and_in_order(tmp_path: Path) -> None:
    x, y = np.arange(21).reshape(7, 3), np.arange(7) * 10
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    chunks = list(NpzFile(tmp_path / "a.npz").chunks(["x", "y"], 3))
    assert [len(chunk["x"]) for chunk in chunks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([chunk["x"] for chunk in chunks]), x)
    np.testing.assert_array_equal(np.concatenate([chunk["y"] for chunk in chunks]), y)


def test_headers_are_known_without_reading_the_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2), np.float32))
    column = NpzFile(tmp_path / "a.npz").columns["x"]
    assert (column.rows, column.shape, column.dtype, column.row_bytes) == (5, (5, 2), np.dtype(np.float32), 8)


def test_memory_stays_that_of_one_chunk(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "big.npz", x=np.zeros((200_000, 20)))
    file = NpzFile(tmp_path / "big.npz")
    tracemalloc.start()
    rows = sum(len(chunk["x"]) for chunk in file.chunks(["x"], 500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 200_000
    assert peak < 4_000_000, "the whole array takes 32 MB"


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(InvalidInput, match="holds Python objects; store text as a fixed-width array"):
        NpzFile(tmp_path / "a.npz")


def test_a_scalar_has_no_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(3))
    with pytest.raises(InvalidInput, match="'x' is a single number"):
        NpzFile(tmp_path / "a.npz")


def test_column_order_is_refused_with_the_mend(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(np.zeros((4, 3))))
    with pytest.raises(InvalidInput, match="ascontiguousarray"):
        NpzFile(tmp_path / "a.npz")


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with pytest.raises(InvalidInput, match=r"a\.npz cannot be read"):
        NpzFile(tmp_path / "a.npz")


def test_damaged_data_is_noticed_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(10_000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(NpzFile(path).chunks(["x"], 100))
