"""Read the arrays of an `.npz` file row by row, in memory that does not grow with the file.

`numpy.load` reads a compressed array as a whole; here each member is read from the archive chunk by chunk. Pickled
objects are never loaded: text is stored as fixed-width `S` or `U` arrays.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput

_UNREADABLE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError)
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a file, as its header describes it; the first dimension counts rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize


class NpzFile:
    """The headers of an `.npz` file; the data is read when it is asked for.

    Raises:
        InvalidInput: not an `.npz` file, or an array that has no rows or needs pickle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                self.columns = {column.name: column for column in (_column(archive, name) for name in names)}
        except _UNREADABLE as problem:
            raise _unreadable(path, problem) from problem

    def chunks(self, names: Sequence[str], rows: int) -> Iterator[dict[str, Array]]:
        """Read some columns of equal length together, `rows` rows at a time."""
        count = self.columns[names[0]].rows
        try:
            with zipfile.ZipFile(self.path) as archive, ExitStack() as stack:
                members = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in names}
                for member in members.values():
                    _read_header(member)
                for start in range(0, count, rows):
                    taken = min(rows, count - start)
                    yield {name: _read_rows(members[name], self.columns[name], taken) for name in names}
        except _UNREADABLE as problem:
            raise _unreadable(self.path, problem) from problem


def _column(archive: zipfile.ZipFile, member_name: str) -> Column:
    name = member_name.removesuffix(".npy")
    with archive.open(member_name) as member:
        shape, is_fortran, dtype = _read_header(member)
    if dtype.hasobject:
        raise ValueError(f"array '{name}' holds Python objects; store text as a fixed-width array (dtype S or U)")
    if not shape:
        raise ValueError(f"array '{name}' is a single number; its first dimension must count the rows")
    if is_fortran and len(shape) > 1:
        raise ValueError(f"array '{name}' is stored column by column; save numpy.ascontiguousarray of it")
    return Column(name, dtype, shape)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in _HEADER_READERS:
        raise ValueError(f"an array has the unknown .npy version {version}")
    shape, is_fortran, dtype = _HEADER_READERS[version](member)
    return shape, is_fortran, dtype


def _read_rows(member: IO[bytes], column: Column, rows: int) -> Array:
    expected = rows * column.row_bytes
    data = member.read(expected)
    if len(data) != expected:
        raise ValueError(f"array '{column.name}' ends early")
    array: Array = np.frombuffer(data, dtype=column.dtype).reshape((rows, *column.shape[1:]))
    return array


def _unreadable(path: Path, problem: Exception) -> InvalidInput:
    return InvalidInput(
        f"data file {path} cannot be read: {problem}. "
        "Expected an .npz file with arrays named '<split>/<input name>' and '<split>/label'."
    )
