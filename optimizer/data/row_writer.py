"""The process that runs a user's row function: `python -m optimizer.data.row_writer FILE FUNCTION FOLDER RANKS`.

Each yielded dict is one row, or a small batch, of arrays by name; rows are gathered and written in files of bounded
size. `RANKS` is a JSON object that gives, per input, the rank of an array that holds several rows.
"""

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import Error, InvalidInput

_FILE_BYTES = 16 << 20
_FILE_ROWS = 4096


def write_shards(items: Iterable[Mapping[str, Any]], ranks: Mapping[str, int], folder: Path) -> int:
    """Write rows into numbered files and count the files.

    Raises:
        InvalidInput: an item that is not a dict of arrays, or items that differ in their names.
    """
    pending: list[dict[str, Array]] = []
    size = files = 0
    for item in items:
        rows = _rows_from_item(item, ranks)
        if pending and _differs(pending[0], rows):
            files, size = _write(pending, folder, files), 0
            pending = []
        pending.append(rows)
        size += sum(array.nbytes for array in rows.values())
        if size >= _FILE_BYTES or len(pending) >= _FILE_ROWS:
            files, size = _write(pending, folder, files), 0
            pending = []
    return _write(pending, folder, files) if pending else files


def _rows_from_item(item: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Array]:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"it yielded {type(item).__name__}; expected a dict of arrays by input name.")
    arrays = {name: np.asarray(value) for name, value in item.items()}
    known = {name: name.partition("/")[2] if name.partition("/")[2] in ranks else name for name in arrays}
    inputs = [name for name in arrays if known[name] in ranks]
    if not inputs:
        raise InvalidInput(f"it yielded arrays named {sorted(arrays)}; the model takes {sorted(ranks)}.")
    if not all(arrays[name].ndim == ranks[known[name]] for name in inputs):
        return {name: array[np.newaxis] for name, array in arrays.items()}
    single = [name for name, array in arrays.items() if array.ndim == 0]
    if single:
        raise InvalidInput(f"it yielded a batch of rows whose '{single[0]}' is one number; one per row is expected.")
    return arrays


def _differs(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    """Rows of other names or shapes go into a file of their own."""
    return {name: array.shape[1:] for name, array in first.items()} != {
        name: array.shape[1:] for name, array in second.items()
    }


def _write(pending: list[dict[str, Array]], folder: Path, number: int) -> int:
    arrays = {name: np.concatenate([rows[name] for rows in pending]) for name in pending[0]}
    np.savez(folder / f"{number:06d}.npz", **arrays)  # type: ignore[arg-type]
    return number + 1


def _load_function(file: Path, name: str) -> Callable[[], Iterable[Mapping[str, Any]]]:
    spec = importlib.util.spec_from_file_location("row_function_of_the_user", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInput(f"{file} has no function '{name}'.")
    loaded: Callable[[], Iterable[Mapping[str, Any]]] = function
    return loaded


def _stop_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Run the function; the last line that is printed says what went wrong."""
    file, function, folder, ranks = arguments
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        write_shards(_load_function(Path(file), function)(), json.loads(ranks), Path(folder))
    except Error as problem:
        print(problem)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
