"""Rows of data become feeds: checked against the model's inputs, cast where nothing is lost, never pickled."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors, TensorSpec, shape_fits


@dataclass(frozen=True, slots=True)
class Batch:
    """One feed for the model and the labels of its rows, where there are labels.

    Attributes:
        is_whole: the feed is one row, and the model has no axis of rows.
    """

    feeds: Tensors
    labels: Array | None
    rows: int
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How many rows make one feed.

    Attributes:
        rows_per_feed: None where the batch axis is open, otherwise the number that the model wants.
        is_whole: a row is a complete feed, without an axis of rows in the model.
    """

    rows_per_feed: int | None
    is_whole: bool


# Rows by input name, and their labels.
Chunk = tuple[Tensors, Array | None]

OPEN_LAYOUT = RowLayout(None, is_whole=False)


def layout_from_shapes(
    shapes: Mapping[str, Sequence[int]], inputs: Sequence[TensorSpec], batch_axis_open: bool
) -> RowLayout:
    """Find how rows of these shapes feed the model.

    Raises:
        InvalidInput: a row that fits an input in no way.
    """
    if batch_axis_open:
        _check_shapes(shapes, inputs)
        return OPEN_LAYOUT
    if all(shape_fits(shapes[spec.name][1:], spec.shape) for spec in inputs):
        return RowLayout(1, is_whole=True)
    _check_shapes(shapes, inputs)
    leading = {spec.shape[0] for spec in inputs}
    if len(leading) != 1 or -1 in leading:
        raise InvalidInput(
            f"the model's inputs {', '.join(map(str, inputs))} have no batch axis; each row of data must be a whole "
            f"input, and the rows have shapes {[list(shapes[spec.name][1:]) for spec in inputs]}."
        )
    return RowLayout(leading.pop(), is_whole=False)


def _check_shapes(shapes: Mapping[str, Sequence[int]], inputs: Sequence[TensorSpec]) -> None:
    for spec in inputs:
        row = shapes[spec.name][1:]
        if not spec.shape or not shape_fits(row, spec.shape[1:]):
            raise InvalidInput(
                f"data for input '{spec.name}' has rows of shape {list(row)}; the model takes {list(spec.shape)}, "
                f"so rows of shape {list(spec.shape[1:])}. Reshape the data."
            )


def batches_from_chunks(chunks: Iterable[Chunk], layout: RowLayout, batch_size: int) -> Iterator[Batch]:
    """Join and cut chunks of rows into batches; rows of different shapes never share one.

    Where the model wants a fixed number of rows, that number is used and an incomplete rest is left out.
    """
    size = layout.rows_per_feed or batch_size
    held: Chunk | None = None
    for chunk in chunks:
        if held is not None and _row_shapes(held) != _row_shapes(chunk):
            yield from _rest(held, layout)
            held = None
        held = chunk if held is None else _joined(held, chunk)
        while _rows(held) >= size:
            yield _batch(_cut(held, slice(None, size)), layout)
            held = _cut(held, slice(size, None))
    if held is not None:
        yield from _rest(held, layout)


def _rest(held: Chunk, layout: RowLayout) -> Iterator[Batch]:
    if _rows(held) and layout.rows_per_feed is None:
        yield _batch(held, layout)


def _batch(chunk: Chunk, layout: RowLayout) -> Batch:
    feeds, labels = chunk
    if layout.is_whole:
        return Batch({name: array[0] for name, array in feeds.items()}, labels, 1, is_whole=True)
    return Batch(feeds, labels, _rows(chunk))


def _joined(first: Chunk, second: Chunk) -> Chunk:
    feeds = {name: np.concatenate([array, second[0][name]]) for name, array in first[0].items()}
    if first[1] is None or second[1] is None:
        return feeds, None
    return feeds, np.concatenate([first[1], second[1]])


def _cut(chunk: Chunk, rows: slice) -> Chunk:
    feeds, labels = chunk
    return {name: array[rows] for name, array in feeds.items()}, None if labels is None else labels[rows]


def _rows(chunk: Chunk) -> int:
    return len(next(iter(chunk[0].values())))


def _row_shapes(chunk: Chunk) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in chunk[0].items()}


def fit_array(array: Array, spec: TensorSpec, origin: str) -> Array:
    """Cast an array to the input's element type and refuse what the model cannot mean.

    Raises:
        InvalidInput: a cast that would lose values, NaN or infinity.
    """
    if not spec.dtype.size_bytes:
        return _fit_text(array, origin)
    target = spec.dtype.numpy
    if array.dtype.kind in "fV" and target.kind in "fV":
        cast = array.astype(target)
    elif np.can_cast(array.dtype, target, "same_kind"):
        cast = array.astype(target)
        if target.kind in "iub" and not np.array_equal(cast, array):
            raise InvalidInput(f"{origin} holds {array.dtype} values that do not fit {spec.dtype.name}.")
    else:
        raise InvalidInput(f"{origin} is {array.dtype}; the model takes {spec.dtype.name}. Convert the data.")
    if target.kind in "fV" and not np.isfinite(cast.astype(np.float32)).all():
        raise InvalidInput(f"{origin} holds NaN or infinity; expected finite numbers. Clean the data.")
    return cast


def _fit_text(array: Array, origin: str) -> Array:
    if array.dtype.kind not in "SU":
        raise InvalidInput(f"{origin} is {array.dtype}; the model takes text. Store it with dtype S or U.")
    return array.astype(object)
