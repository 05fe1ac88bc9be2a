"""What a model knows, as one score per row: rows of original and candidate pair up, so their difference can be tested.

top1       share of rows whose highest class is the label (or whose answer is the label, for integer and text outputs)
mse        mean squared error against the label; lower is better
agreement  needs no labels: share of rows where the highest class is the original's, or for anything but a
           classifier the mean closeness to the original's output, from 1 (equal) to -1 (opposite)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch

MetricName = Literal["top1", "mse", "agreement"]

# Metrics that are a share of something, from 0 to 1.
SHARES = frozenset(("top1", "agreement"))

# Scores rows from their output and what it is compared with: labels, or the original's output.
_RowScores = Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Metric:
    """A score per row.

    Attributes:
        name: as it is printed and stored.
        output: the output that is scored; a model's first.
        is_binary: a row scores 0 or 1, so that an exact test applies.
        higher_is_better: False for errors.
        needs_labels: rows are compared with labels; otherwise with what the original answered.
        score_rows: the score itself.
    """

    name: str
    output: str
    is_binary: bool
    higher_is_better: bool
    needs_labels: bool
    score_rows: _RowScores

    def scores(self, outputs: Tensors, source: Tensors, batch: Batch) -> Array:
        """Score the rows of one batch; raises `InvalidInput` where the output or the labels do not go by rows."""
        wanted = batch.labels if self.needs_labels else _by_row(source[self.output], batch)
        assert wanted is not None
        found = _by_row(outputs[self.output], batch)
        if len(found) != batch.rows:
            raise InvalidInput(
                f"output '{self.output}' has shape {list(found.shape)} for {batch.rows} rows; one answer per row "
                f"is needed for the metric {self.name}."
            )
        return self.score_rows(found, wanted)

    def drop_per_row(self, source: Array, candidate: Array) -> Array:
        """How much worse each row is; negative where the candidate is better."""
        return source - candidate if self.higher_is_better else candidate - source


def metric_from_name(name: MetricName | None, output: TensorSpec, has_labels: bool) -> Metric:
    """Choose the metric; without a name it is top1 for a classifier with labels, and agreement for the rest.

    Raises:
        InvalidInput: labels are needed and missing, or the output does not suit the metric.
    """
    if name is None:
        name = "top1" if has_labels and _is_classifier(output) else "agreement"
    if name != "agreement" and not has_labels:
        raise InvalidInput(
            f"metric {name} needs labels, and the data has no array '<split>/label' in each of validation and test. "
            "Add them, or use --metric agreement."
        )
    if name == "agreement":
        binary = _is_classifier(output)
        return Metric(name, output.name, binary, True, False, _same_class if binary else _closeness)
    if name == "mse":
        if output.dtype.numpy.kind not in "fV":
            raise InvalidInput(f"metric mse needs an output of numbers; the first output is {output}.")
        return Metric(name, output.name, False, False, True, _squared_error)
    if not _is_classifier(output):
        raise InvalidInput(
            f"metric top1 needs one score per class, or a class, for each row; the first output is {output}. "
            "Use --metric mse or agreement."
        )
    return Metric(name, output.name, True, True, True, _is_label)


def highest_class(output: Array) -> Array:
    """The class of each row: the position of its highest score, or the answer itself where it is a class."""
    return np.argmax(output, axis=-1) if output.ndim == 2 and output.dtype.kind in "fV" else output.reshape(len(output))


def _is_classifier(output: TensorSpec) -> bool:
    """One score for each of several classes per row, or one class per row."""
    if output.dtype.numpy.kind in "fV":
        return len(output.shape) == 2 and output.shape[1] not in (0, 1)
    return len(output.shape) == 1 or (len(output.shape) == 2 and output.shape[1] == 1)


def score_text(metric: str, value: float) -> str:
    """A share as a percentage, an error as a number."""
    return f"{value * 100:.2f}%" if metric in SHARES else f"{value:.4g}"


def _by_row(output: Array, batch: Batch) -> Array:
    return output[np.newaxis] if batch.is_whole else output


def _is_label(output: Array, labels: Array) -> Array:
    if labels.size != len(labels):
        raise InvalidInput(f"metric top1: labels have shape {list(labels.shape)}; one class per row is expected.")
    if output.ndim == 2 and output.dtype.kind in "fV":
        _check_classes(labels, output.shape[1])
    return _scores(_equal(highest_class(output), labels.reshape(len(labels))) & _has_no_nan(output))


def _check_classes(labels: Array, classes: int) -> None:
    """A label that no score stands for can never be hit, so a metric over such labels would accept any candidate."""
    try:
        numbers = labels.astype(np.float64)
    except ValueError:
        numbers = np.full(labels.shape, np.nan)
    is_class = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    if not is_class.all():
        raise InvalidInput(
            f"metric top1: the label {labels[~is_class].tolist()[0]!r} is no class of an output with {classes} scores; "
            f"whole numbers from 0 to {classes - 1} are expected."
        )


def _same_class(output: Array, source: Array) -> Array:
    return _scores(_equal(highest_class(output), highest_class(source)) & _has_no_nan(output))


def _squared_error(output: Array, labels: Array) -> Array:
    rows = len(output)
    wanted = labels.astype(np.float64).reshape(rows, -1)
    found = output.astype(np.float64).reshape(rows, -1)
    if wanted.shape != found.shape:
        raise InvalidInput(
            f"metric mse: labels hold {wanted.shape[1]} numbers per row and the output {found.shape[1]}; "
            "the same number is expected."
        )
    return np.asarray(np.mean((found - wanted) ** 2, axis=1))


def _closeness(output: Array, source: Array) -> Array:
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


def _equal(found: Array, wanted: Array) -> Array:
    if found.dtype.kind in "OSU" or wanted.dtype.kind in "OSU":
        return np.array([_text(a) == _text(b) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])
    return np.asarray(found == wanted)


def _text(item: object) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _has_no_nan(output: Array) -> Array:
    if output.dtype.kind not in "fV":
        return np.ones(len(output), dtype=bool)
    return np.asarray(~np.isnan(output.astype(np.float64)).reshape(len(output), -1).any(axis=1))


def _scores(hits: Array) -> Array:
    return hits.astype(np.float64)
