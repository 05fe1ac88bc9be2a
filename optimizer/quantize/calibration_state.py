"""A calibration that can be killed: what it knows is written every few batches, and read back by the next one."""

import os
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(slots=True)
class Progress:
    """How far a calibration has come.

    Attributes:
        model: fingerprint of what is observed: the graph and the tensors.
        lowest, highest: one value per tensor.
        counts: tensors by bins; empty before the second pass.
        batches, rows: that were read in the pass that is under way.
        grown_at: how many rows had been read when a range last grew.
        digest: of the feeds of the first pass, in order; each is added to the digest before it, to be resumed.
        is_counting: the second pass.
        rows_ranged: rows of the first pass, once it has ended.
        has_converged: why the first pass ended.
    """

    model: str
    lowest: Array
    highest: Array
    counts: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    batches: int = 0
    rows: int = 0
    grown_at: int = 0
    digest: str = ""
    is_counting: bool = False
    rows_ranged: int = 0
    has_converged: bool = False

    def count_feed(self, rows: int) -> None:
        self.batches += 1
        self.rows += rows


def rows_of(feed: Tensors, is_whole: bool) -> int:
    """The length of its first input, or one where the feed is a single row of a model without an axis of rows."""
    return 1 if is_whole else len(next(iter(feed.values())))


def chained_digest(before: str, feed: Tensors) -> str:
    """SHA-256 of a feed and of all feeds before it."""
    state = sha256(before.encode())
    for name in sorted(feed):
        array = feed[name]
        state.update(f"{name}{array.dtype}{array.shape}".encode())
        state.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return state.hexdigest()


def save_progress(progress: Progress, path: Path) -> None:
    """Write beside and rename, so that a kill leaves the state before or the state after."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    with beside.open("wb") as file:
        values = {name: getattr(progress, name) for name in Progress.__slots__}
        np.savez(file, **{name: np.asarray(value) for name, value in values.items()})  # type: ignore[arg-type]
    beside.replace(path)


def load_progress(path: Path, model: str) -> Progress | None:
    """Read a state; None where there is none, where it is damaged, or where it is of another model."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            values = {name: file[name] for name in Progress.__slots__}
    except _UNREADABLE:
        return None
    plain = {name: value.item() if value.ndim == 0 else value for name, value in values.items()}
    return Progress(**plain) if plain["model"] == model else None
