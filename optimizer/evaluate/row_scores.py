"""One score per row, from an output and what it is compared with: labels, or the original's output."""

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput

_BEST = 5


def is_label(output: Array, labels: Array) -> Array:
    """1 where the highest class is the label; raises `InvalidInput` for labels that are no classes of the output."""
    found, wanted = predicted_and_labels("top1", output, labels)
    return _scores(equal(found, wanted) & has_no_nan(output))


def is_label_among_best(output: Array, labels: Array) -> Array:
    """1 where the label is one of the five highest classes."""
    _, wanted = predicted_and_labels("top5", output, labels)
    best = np.argsort(-output.astype(np.float64), axis=1, kind="stable")[:, :_BEST]
    return _scores((best == wanted.astype(np.int64)[:, np.newaxis]).any(axis=1) & has_no_nan(output))


def is_same_class(output: Array, source: Array) -> Array:
    return _scores(equal(highest_class(output), highest_class(source)) & has_no_nan(output))


def squared_error(output: Array, labels: Array) -> Array:
    found, wanted = _paired("mse", output, labels)
    return np.asarray(np.mean((found - wanted) ** 2, axis=1))


def cosine(output: Array, wanted: Array) -> Array:
    """The cosine of the angle between both rows: 1 where they point the same way; rows of zeros equal each other."""
    a, b = _paired("cosine", output, wanted)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    product = np.divide(np.sum(a * b, axis=1), lengths, out=np.zeros(len(a)), where=lengths != 0)
    return np.nan_to_num(np.where(both_zero, 1.0, product), nan=0.0)


def closeness(output: Array, source: Array) -> Array:
    """1 less the squared distance over the squared lengths of both rows: 1 where they are equal, -1 where opposite.

    A cosine that also sees length: it calls 10 and 1000, or an image and the same twice as bright, different answers.
    A row that holds NaN scores 0.
    """
    if output.dtype.kind not in "fViub":
        return _scores((output == source).reshape(len(output), -1).all(axis=1))
    found = output.astype(np.float64).reshape(len(output), -1)
    wanted = source.astype(np.float64).reshape(len(source), -1)
    if found.shape != wanted.shape:
        return np.zeros(len(source))
    lengths = np.sum(found**2 + wanted**2, axis=1)
    share = np.divide(np.sum((found - wanted) ** 2, axis=1), lengths, out=np.zeros(len(found)), where=lengths != 0)
    return np.asarray(np.nan_to_num(1.0 - share, nan=0.0))


def predicted_and_labels(metric: str, output: Array, labels: Array) -> tuple[Array, Array]:
    """The class that each row is given and the one that it has, both as one number or text per row.

    Raises:
        InvalidInput: labels that are no classes of the output, or not one per row.
    """
    if labels.size != len(labels):
        raise InvalidInput(f"metric {metric}: labels have shape {list(labels.shape)}; one class per row is expected.")
    if output.ndim == 2 and output.dtype.kind in "fV":
        _check_classes(metric, labels, output.shape[1])
    return highest_class(output), labels.reshape(len(labels))


def highest_class(output: Array) -> Array:
    """The class of each row: the position of its highest score, or the answer itself where it is a class."""
    return np.argmax(output, axis=-1) if output.ndim == 2 and output.dtype.kind in "fV" else output.reshape(len(output))


def equal(found: Array, wanted: Array) -> Array:
    if found.dtype.kind in "OSU" or wanted.dtype.kind in "OSU":
        return np.asarray(text(found) == text(wanted))
    return np.asarray(found == wanted)


def text(items: Array) -> Array:
    words = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in items.tolist()]
    return np.array(words, dtype=np.str_)


def has_no_nan(output: Array) -> Array:
    if output.dtype.kind not in "fV":
        return np.ones(len(output), dtype=bool)
    return np.asarray(~np.isnan(output.astype(np.float64)).reshape(len(output), -1).any(axis=1))


def _check_classes(metric: str, labels: Array, classes: int) -> None:
    """A label that no score stands for can never be hit, so a metric over such labels would accept any candidate."""
    try:
        numbers = labels.astype(np.float64)
    except ValueError:
        numbers = np.full(labels.shape, np.nan)
    is_class = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    if not is_class.all():
        raise InvalidInput(
            f"metric {metric}: the label {labels[~is_class].tolist()[0]!r} is no class of an output with {classes} "
            f"scores; whole numbers from 0 to {classes - 1} are expected."
        )


def _paired(metric: str, output: Array, wanted: Array) -> tuple[Array, Array]:
    rows = len(output)
    try:
        found, expected = (array.astype(np.float64).reshape(rows, -1) for array in (output, wanted))
    except ValueError as problem:
        raise InvalidInput(f"metric {metric}: labels of numbers are expected, found {wanted.dtype}.") from problem
    if expected.shape != found.shape:
        raise InvalidInput(
            f"metric {metric}: labels hold {expected.shape[1]} numbers per row and the output {found.shape[1]}; "
            "the same number is expected."
        )
    return found, expected


def _scores(hits: Array) -> Array:
    return hits.astype(np.float64)
