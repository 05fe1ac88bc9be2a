"""The user's data as a stream of batches: `.npz` files, a folder of them, or a function that yields rows.

Arrays are named `<split>/<input name>` and `<split>/label`; arrays without a split are split here. Nothing is held
beyond the batch being read, so the data may be larger than memory.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch, batches_from_chunks, fit_array, layout_from_shapes
from optimizer.data.npz_stream import NpzFile
from optimizer.data.row_function import is_row_function, write_rows
from optimizer.data.splits import SHARES, SPLITS, Splitter

LABEL = "label"
_CHUNK_BYTES = 4 << 20
_JUDGING = ("", "validation/", "test/")


class DataSet:
    """Rows in splits, checked against a model's inputs when it is made; values are checked as they are read.

    Args:
        paths: the files, in the order in which they are read.
        inputs: what the model takes.
        batch_axis_open: whether the model takes any number of rows.
        seed: for rows that are split here.

    Raises:
        InvalidInput: arrays that no input has, that miss, do not fit, or are empty.
    """

    def __init__(self, paths: Sequence[Path], inputs: Sequence[TensorSpec], batch_axis_open: bool, seed: int) -> None:
        self._files = [NpzFile(path) for path in paths]
        self._inputs = tuple(inputs)
        self._seed = seed
        self.is_split_here = not _are_split(self._files)
        groups = [group for file in self._files for group in self._groups(file)]
        shapes = [self._shapes(file, prefix) for file, prefix in groups]
        layouts = [layout_from_shapes(shape, inputs, batch_axis_open) for shape in shapes]
        self._layout = layouts[0]
        self.has_labels = all(self._label_column(file, prefix) for file, prefix in groups if prefix in _JUDGING)
        self.rows = self._count_rows(groups)
        if not sum(self.rows.values()):
            raise InvalidInput(f"the data in {_names(paths)} is empty: 0 rows found, at least one per split expected.")

    @cached_property
    def _digest(self) -> str:
        """SHA-256 of all rows, file by file, and of how they are split, in hex.

        Compression, names of files and the order of arrays in a file do not matter.
        """
        state = hashlib.sha256(f"{self.is_split_here} {self._seed}".encode())
        for file in self._files:
            for name, column in sorted(file.columns.items()):
                state.update(f"{name} {column.dtype} {column.shape}".encode())
                for chunk in file.chunks([name], _chunk_rows(file, [name])):
                    state.update(chunk[name].tobytes())
        return state.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of all rows and of how they are split, in hex; read once, however often it is asked for."""
        return self._digest

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        """Read a split from the beginning, in order; a split that is not there gives nothing.

        Raises:
            InvalidInput: NaN, infinity, values that do not fit, or a file that ends early.
        """
        return batches_from_chunks(self._chunks(split), self._layout, batch_size)

    @property
    def is_whole(self) -> bool:
        """Whether a row is a complete feed of a model that has no axis of rows."""
        return self._layout.is_whole

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.rows.items() if count)
        how = f" (split here: {SHARES}, seed {self._seed})" if self.is_split_here else ""
        return f"{sum(self.rows.values())} rows: {counts}{how}, {'with' if self.has_labels else 'without'} labels"

    def _groups(self, file: NpzFile) -> list[tuple[NpzFile, str]]:
        """The prefixes of a file's arrays, `validation/` or the empty one, each checked for names and lengths."""
        if self.is_split_here:
            prefixes = [""]
        else:
            prefixes = [f"{split}/" for split in SPLITS if any(name.startswith(f"{split}/") for name in file.columns)]
        for prefix in prefixes:
            self._check_names(file, prefix)
        self._check_strangers(file, prefixes)
        return [(file, prefix) for prefix in prefixes]

    def _check_names(self, file: NpzFile, prefix: str) -> None:
        names = [f"{prefix}{spec.name}" for spec in self._inputs]
        missing = [name for name in names if name not in file.columns]
        if missing:
            raise InvalidInput(
                f"data file {file.path} has no array '{missing[0]}'; found {', '.join(file.columns) or 'none'}. "
                f"The model takes {', '.join(map(str, self._inputs))}."
            )
        label = f"{prefix}{LABEL}"
        lengths = {name: file.columns[name].rows for name in (*names, label) if name in file.columns}
        if len(set(lengths.values())) > 1:
            raise InvalidInput(f"arrays of data file {file.path} differ in length: {lengths}; one row each expected.")

    def _check_strangers(self, file: NpzFile, prefixes: Sequence[str]) -> None:
        names = {spec.name for spec in self._inputs} | {LABEL}
        known = {f"{prefix}{name}" for prefix in prefixes for name in names}
        strangers = [name for name in file.columns if name not in known]
        if strangers:
            raise InvalidInput(
                f"array '{strangers[0]}' in data file {file.path} fits no input of the model, which takes "
                f"{', '.join(map(str, self._inputs))}. Rename or remove it; splits are {', '.join(SPLITS)}."
            )

    def _shapes(self, file: NpzFile, prefix: str) -> dict[str, tuple[int, ...]]:
        return {spec.name: file.columns[f"{prefix}{spec.name}"].shape for spec in self._inputs}

    def _count_rows(self, groups: Sequence[tuple[NpzFile, str]]) -> dict[str, int]:
        counts: Counter[str] = Counter()
        if not self.is_split_here:
            for file, prefix in groups:
                counts[prefix.removesuffix("/")] += file.columns[f"{prefix}{self._inputs[0].name}"].rows
        else:
            splitter = Splitter(self._seed)
            for file, _ in groups:
                for labels, rows in self._label_chunks(file):
                    counts.update(splitter.assign(labels, rows).tolist())
        return {split: counts[split] for split in SPLITS}

    def _label_chunks(self, file: NpzFile) -> Iterator[tuple[Array | None, int]]:
        label = self._label_column(file, "")
        if label is None:
            yield None, file.columns[self._inputs[0].name].rows
            return
        for chunk in file.chunks([label], _chunk_rows(file, [label])):
            yield chunk[label], len(chunk[label])

    def _label_column(self, file: NpzFile, prefix: str) -> str | None:
        """The name of the label array, if there is one; an input of the model that is called `label` is no label."""
        name = f"{prefix}{LABEL}"
        return name if name in file.columns and all(spec.name != LABEL for spec in self._inputs) else None

    def _chunks(self, split: str) -> Iterator[tuple[Tensors, Array | None]]:
        splitter = Splitter(self._seed)
        prefix = "" if self.is_split_here else f"{split}/"
        for file in self._files:
            names = [f"{prefix}{spec.name}" for spec in self._inputs]
            if names[0] not in file.columns:
                continue
            label = self._label_column(file, prefix)
            columns = [*names, label] if label else names
            for chunk in file.chunks(columns, _chunk_rows(file, columns)):
                labels = chunk[label] if label else None
                feeds = {spec.name: chunk[name] for spec, name in zip(self._inputs, names, strict=True)}
                if self.is_split_here:
                    mask = splitter.assign(labels, len(chunk[names[0]])) == split
                    feeds = {name: array[mask] for name, array in feeds.items()}
                    labels = None if labels is None else labels[mask]
                yield self._fit(feeds, f"{file.path}: {prefix}"), labels

    def _fit(self, feeds: Tensors, origin: str) -> Tensors:
        return {spec.name: fit_array(feeds[spec.name], spec, f"{origin}{spec.name}") for spec in self._inputs}


def open_data(
    argument: str, inputs: Sequence[TensorSpec], batch_axis_open: bool, seed: int, workdir: Path | None
) -> DataSet | None:
    """Open what `--data` names; a row function runs in a process of its own and writes its rows into `workdir`.

    Without a `workdir` nothing is run and nothing is written: a row function then gives None.

    Raises:
        InvalidInput: nothing there, no `.npz` file in the folder, or data that does not fit the model.
    """
    if is_row_function(argument):
        if workdir is None:
            return None
        folder = workdir / "rows"
        write_rows(argument, inputs, batch_axis_open, folder)
        return DataSet(_npz_files(folder), inputs, batch_axis_open, seed)
    path = Path(argument)
    if not path.exists():
        raise InvalidInput(
            f"data {argument} does not exist; expected an .npz file, a folder of them, or path.py:function."
        )
    return DataSet(_npz_files(path) if path.is_dir() else [path], inputs, batch_axis_open, seed)


def _npz_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise InvalidInput(f"the data folder {folder} is empty: no .npz file found, at least one expected.")
    return paths


def _chunk_rows(file: NpzFile, names: Sequence[str]) -> int:
    """As many rows as fit a fixed number of bytes, and at least one."""
    row_bytes = sum(file.columns[name].row_bytes for name in names)
    return max(1, _CHUNK_BYTES // max(1, row_bytes))


def _are_split(files: Sequence[NpzFile]) -> bool:
    """Tell whether arrays carry splits; raises `InvalidInput` where some do and some do not."""
    names = [name for file in files for name in file.columns]
    if not names:
        raise InvalidInput(f"the data in {_names([file.path for file in files])} is empty: it holds no array.")
    split = [name for name in names if name.partition("/")[0] in SPLITS and "/" in name]
    if split and len(split) != len(names):
        stranger = next(name for name in names if name not in split)
        raise InvalidInput(
            f"data array '{stranger}' has no split and '{split[0]}' has one; name all of them '<split>/<input name>' "
            f"with one of {', '.join(SPLITS)}, or none."
        )
    return bool(split)


def _names(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files of {paths[0].parent}"
