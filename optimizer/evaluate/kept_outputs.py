"""Outputs on disk, batch after batch: written once, read as often as there are candidates, one batch in memory."""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors

_BF16 = np.dtype(ml_dtypes.bfloat16)


class KeptOutputs:
    """One file of arrays; append all batches first, then read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[tuple[str, ...]] = []
        self._is_bf16: list[tuple[bool, ...]] = []
        path.write_bytes(b"")

    def append(self, outputs: Tensors) -> None:
        with self._path.open("ab") as file:
            for array in outputs.values():
                np.lib.format.write_array(file, storable(array), allow_pickle=False)
        self._names.append(tuple(outputs))
        self._is_bf16.append(tuple(array.dtype == _BF16 for array in outputs.values()))

    def read(self) -> Iterator[Tensors]:
        """All batches, in the order in which they were appended; text comes back as `str`."""
        with self._path.open("rb") as file:
            for names, are_bf16 in zip(self._names, self._is_bf16, strict=True):
                arrays = [np.lib.format.read_array(file, allow_pickle=False) for _ in names]
                yield {
                    name: _restored(array, is_bf16)
                    for name, array, is_bf16 in zip(names, arrays, are_bf16, strict=True)
                }


def storable(array: Array) -> Array:
    """Nothing that needs pickle: text in fixed width, and BF16, which numpy's format does not know, as raw bytes."""
    if array.dtype.hasobject:
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
        return np.array(text, dtype=np.str_).reshape(array.shape)
    return array.view("V2") if array.dtype == _BF16 else array


def _restored(array: Array, is_bf16: bool) -> Array:
    if is_bf16:
        return array.view(_BF16)
    return array.astype(object) if array.dtype.kind == "U" else array
