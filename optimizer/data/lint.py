"""Look at the rows before they are trusted: data that calibrates badly is mostly data that is not what it should be."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.data.dataset import DataSet
from optimizer.data.splits import SPLITS

_FEW_ROWS = 32
_BATCH_ROWS = 16
_PART_VALUES = 1 << 19
# Neighbouring values of real images go together; below this they might as well be noise. Columns of a table need not,
# so there the values must also be spread as noise is: kurtosis near 1.8 if uniform, 3 if normal.
_NOISE_CORRELATION = 0.05
_NOISE_KURTOSES = ((1.7, 2.1), (2.8, 3.2))
_LEAST_NEIGHBOURS = 16
_SCALE_RATIO = 2.5
_MOST_HASHED_ROWS = 200_000


@dataclass(slots=True)
class _Signal:
    """Running sums over one input of one split."""

    rank: int
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    pairs: int = 0
    products: float = 0.0
    pair_squares: float = 0.0
    row_squares: float = 0.0
    row_fourths: float = 0.0
    first_row: Array | None = None
    is_constant: bool = True
    flat_rows: int = 0
    rows: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))

    def add(self, array: Array) -> None:
        rows = max(1, _PART_VALUES // array[0].size)
        for start in range(0, len(array), rows):
            self._add_part(array[start : start + rows].astype(np.float64))

    def _add_part(self, values: Array) -> None:
        flat = values.reshape(len(values), -1)
        self.rows += len(flat)
        self.count += flat.size
        self.total += float(flat.sum())
        self.squares += float((flat**2).sum())
        self.first_row = flat[0] if self.first_row is None else self.first_row
        if self.is_constant:
            self.is_constant = flat.shape[1:] == self.first_row.shape and bool((flat == self.first_row).all())
        if flat.shape[1] > 1:
            self.flat_rows += int((flat == flat[:, :1]).all(axis=1).sum())
        self._add_neighbours(values)

    def _add_neighbours(self, values: Array) -> None:
        """Neighbours along the last axis that is no list of channels, about the mean of each row."""
        axis = next((one for one in range(values.ndim - 1, 0, -1) if values.shape[one] >= _LEAST_NEIGHBOURS // 2), 0)
        if not axis or values[0].size < _LEAST_NEIGHBOURS:
            return
        centred = values - values.mean(axis=tuple(range(1, values.ndim)), keepdims=True)
        along = np.moveaxis(centred, axis, -1)
        left, right = along[..., :-1], along[..., 1:]
        self.pairs += left.size
        self.products += float((left * right).sum())
        self.pair_squares += float((left**2 + right**2).sum()) / 2
        squares = centred**2
        self.row_squares += float(squares.sum())
        self.row_fourths += float((squares**2).sum())

    @property
    def correlation(self) -> float | None:
        """Of neighbours, without what the mean of so few takes from it; None where there are none to speak of."""
        if not self.pairs or not self.pair_squares:
            return None
        return self.products / self.pair_squares + self.rows / self.count

    @property
    def is_noise(self) -> bool:
        by_chance = 2 / max(1, self.pairs) ** 0.5
        if self.correlation is None or abs(self.correlation) >= _NOISE_CORRELATION + by_chance:
            return False
        kurtosis = self.row_fourths * self.count / self.row_squares**2
        return self.rank > 3 or any(low < kurtosis < high for low, high in _NOISE_KURTOSES)


@dataclass(slots=True)
class _Split:
    """What one split looks like."""

    rows: int = 0
    signals: dict[str, _Signal] = field(default_factory=dict)
    labels: set[object] = field(default_factory=set)
    hashes: set[bytes] = field(default_factory=set)
    repeated: int = 0


def lint(data: DataSet, split: str, classes: int | None) -> tuple[str, ...]:
    """Warn of what looks wrong, one sentence each; nothing is read twice and no row is kept.

    Args:
        data: all splits; the test split is read too, but only to find rows that are elsewhere as well.
        split: the one that calibrates.
        classes: how many there are, where the model is a classifier with labels.
    """
    found = {name: _look(data, name) for name in SPLITS if (data.rows[name] and name != "train") or name == split}
    calibration, validation = found[split], found.get("validation", _Split())
    return (
        *_few(split, calibration),
        *_strange(split, calibration),
        *_scales(split, calibration, validation),
        *_repeats(found),
        *_classes(split, calibration, validation, classes),
    )


def _look(data: DataSet, split: str) -> _Split:
    seen = _Split()
    for batch in data.batches(split, _BATCH_ROWS):
        seen.rows += batch.rows
        for name, array in batch.feeds.items():
            rows = array[np.newaxis] if batch.is_whole else array
            if rows.size and (rows.dtype.kind == "f" or rows.dtype == np.uint8):
                seen.signals.setdefault(name, _Signal(rows.ndim)).add(rows)
        if batch.labels is not None and batch.labels.ndim == 1 and batch.labels.dtype.kind in "iubSU":
            seen.labels.update(batch.labels.tolist())
        for key in _row_hashes(batch.feeds, batch.rows, batch.is_whole):
            seen.repeated += key in seen.hashes
            if len(seen.hashes) < _MOST_HASHED_ROWS:
                seen.hashes.add(key)
    return seen


def _row_hashes(feeds: Tensors, rows: int, is_whole: bool) -> Iterator[bytes]:
    for row in range(rows):
        state = blake2b(digest_size=8)
        for name in sorted(feeds):
            part = feeds[name] if is_whole else feeds[name][row]
            state.update(repr(part.tolist()).encode() if part.dtype.hasobject else part.tobytes())
        yield state.digest()


def _few(split: str, seen: _Split) -> Iterator[str]:
    if seen.rows < _FEW_ROWS:
        yield f"the {split} split has {seen.rows} rows; ranges from fewer than {_FEW_ROWS} seldom hold."


def _strange(split: str, seen: _Split) -> Iterator[str]:
    for name, signal in seen.signals.items():
        if signal.is_constant and signal.rows > 1:
            yield f"input '{name}' is the same in every row of the {split} split."
            continue
        if signal.flat_rows:
            yield f"{_rows(signal.flat_rows)} of one value only in input '{name}' of the {split} split."
        if signal.is_noise:
            yield (
                f"input '{name}' of the {split} split looks like random noise (neighbouring values correlate by "
                f"{signal.correlation:.2f}); calibrate on rows that the model will meet."
            )


def _scales(split: str, calibration: _Split, validation: _Split) -> Iterator[str]:
    for name, signal in calibration.signals.items():
        other = validation.signals.get(name)
        if other is None or not signal.deviation or not other.deviation:
            continue
        ratio = signal.deviation / other.deviation
        if not 1 / _SCALE_RATIO <= ratio <= _SCALE_RATIO:
            yield (
                f"input '{name}' is spread {ratio:.3g} times as wide in the {split} split as in validation; are both "
                "scaled alike?"
            )
        elif abs(signal.mean - other.mean) > max(signal.deviation, other.deviation):
            yield (
                f"input '{name}' is {signal.mean:.3g} on average in the {split} split and {other.mean:.3g} in "
                "validation; are both scaled alike?"
            )


def _repeats(found: dict[str, _Split]) -> Iterator[str]:
    for name, seen in found.items():
        if seen.repeated:
            yield f"{_rows(seen.repeated)} in the {name} split for a second time, of {seen.rows}."
    names = list(found)
    for position, name in enumerate(names):
        for other in names[position + 1 :]:
            shared = len(found[name].hashes & found[other].hashes)
            if shared:
                yield f"{_rows(shared)} in the {name} split and in the {other} split too; what is judged was seen."


def _classes(split: str, calibration: _Split, validation: _Split, classes: int | None) -> Iterator[str]:
    if calibration.labels and (missing := validation.labels - calibration.labels):
        yield f"the {split} split has no row of {_listed(missing)}, which validation has."
    if validation.labels and (missing := calibration.labels - validation.labels):
        yield f"validation has no row of {_listed(missing)}, which the {split} split has."
    if classes is not None and validation.labels and len(validation.labels) < classes:
        yield f"validation has rows of {len(validation.labels)} classes, and the model tells {classes} apart."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def _listed(labels: set[object]) -> str:
    shown = ", ".join(map(str, sorted(labels, key=str)[:5]))
    return f"class {shown}" if len(labels) == 1 else f"classes {shown}{', …' if len(labels) > 5 else ''}"
