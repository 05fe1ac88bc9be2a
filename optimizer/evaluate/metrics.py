"""What a model knows, as one score per row: rows of original and candidate pair up, so their difference can be tested.

top1       share of rows whose highest class is the label (or whose answer is the label, for integer and text outputs)
top5       share of rows whose label is among the five highest classes
f1         macro F1 over the classes
mse        mean squared error against the label; lower is better
cosine     mean cosine of the angle to the label; without labels, to the original's output
agreement  needs no labels: share of rows where the highest class is the original's, or for anything but a
           classifier the mean closeness to the original's output, from 1 (equal) to -1 (opposite)
path.py:function   the user's own, see `metric_function.py`
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate import row_scores
from optimizer.evaluate.metric_function import is_metric_function, load_metric_function
from optimizer.evaluate.statistics import PairedDrop
from optimizer.evaluate.summary import MacroF1, MeanOfHits, MeanOfScores, Summary

METRICS = ("top1", "top5", "f1", "mse", "cosine", "agreement")

# Metrics that are a share of something, from 0 to 1: a percent of them is a percentage point.
SHARES = frozenset(METRICS) - {"mse"}

_TOP5_CLASSES = 6
_ScoreBatch = Callable[[Tensors, Tensors, Batch], Array]
_ScoreRows = Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Metric:
    """Scores of rows, and what becomes of them.

    Attributes:
        name: as it is printed and stored.
        score_batch: one score per row from the outputs, the original's outputs and the batch.
        summary: from the rows' scores to one number.
    """

    name: str
    score_batch: _ScoreBatch
    summary: Summary

    @property
    def is_share(self) -> bool:
        return self.name in SHARES

    def scores(self, outputs: Tensors, source: Tensors, batch: Batch) -> Array:
        """Score the rows of one batch; raises `InvalidInput` where the output or the labels do not go by rows."""
        return self.score_batch(outputs, source, batch)

    def total(self, scores: Array) -> float:
        """The score of all rows."""
        return self.summary.total(scores)

    def drop(self, source: Array, candidate: Array, seed: int) -> PairedDrop:
        """How much worse the candidate is, and how sure that is; negative where it is better."""
        return self.summary.drop(source, candidate, seed)


def check_metric_name(name: str) -> str:
    """Give back a name that stands for a metric; raises `InvalidInput` for any other."""
    if name not in METRICS and not is_metric_function(name):
        raise InvalidInput(f"metric is '{name}'; expected one of {', '.join(METRICS)}, or path.py:function.")
    return name


def metric_from_name(name: str | None, output: TensorSpec, has_labels: bool) -> Metric:
    """Choose the metric; without a name it is top1 for a classifier with labels, and agreement for the rest.

    Args:
        name: one of `METRICS`, or `path.py:function`.
        output: the output that is scored, the model's first; its first axis is that of the rows.
        has_labels: whether the judged rows have labels.

    Raises:
        InvalidInput: labels are needed and missing, or the output does not suit the metric, or there is no such metric.
    """
    name = check_metric_name(name or ("top1" if has_labels and _is_classifier(output) else "agreement"))
    if name not in METRICS:
        return Metric(name, load_metric_function(name), MeanOfScores(higher_is_better=True))
    if not has_labels and name not in ("agreement", "cosine"):
        raise InvalidInput(
            f"metric {name} needs labels, and the data has no array '<split>/label' in each of validation and test. "
            "Add them, or use --metric agreement."
        )
    _check_output(name, output)
    if name == "agreement":
        return _agreement(output)
    rows, summary = _WITH_LABELS[name]
    return Metric(name, _scorer(name, output.name, rows, has_labels), summary)


def score_text(metric: str, value: float) -> str:
    """A share as a percentage, an error as a number."""
    return f"{value * 100:.2f}%" if metric in SHARES else f"{value:.4g}"


def _agreement(output: TensorSpec) -> Metric:
    if _is_classifier(output):
        return Metric("agreement", _scorer("agreement", output.name, row_scores.is_same_class, False), MeanOfHits())
    scorer = _scorer("agreement", output.name, row_scores.closeness, False)
    return Metric("agreement", scorer, MeanOfScores(higher_is_better=True))


def _check_output(name: str, output: TensorSpec) -> None:
    if name in ("mse", "cosine") and output.dtype.numpy.kind not in "fV":
        raise InvalidInput(f"metric {name} needs an output of numbers; the first output is {output}.")
    if name in ("top1", "f1") and not _is_classifier(output):
        raise InvalidInput(
            f"metric {name} needs one score per class, or a class, for each row; the first output is {output}. "
            "Use --metric mse or agreement."
        )
    if name == "top5" and not _has_scores(output, _TOP5_CLASSES):
        raise InvalidInput(
            f"metric top5 needs scores of more than five classes for each row; the first output is {output}. "
            "Use --metric top1."
        )


def _is_classifier(output: TensorSpec) -> bool:
    """One score for each of several classes per row, or one class per row."""
    if output.dtype.numpy.kind in "fV":
        return _has_scores(output, 2)
    return len(output.shape) == 1 or (len(output.shape) == 2 and output.shape[1] == 1)


def _has_scores(output: TensorSpec, least: int) -> bool:
    is_open_or_enough = len(output.shape) == 2 and (output.shape[1] == -1 or output.shape[1] >= least)
    return output.dtype.numpy.kind in "fV" and is_open_or_enough


def _scorer(metric: str, output: str, score_rows: _ScoreRows, by_labels: bool) -> _ScoreBatch:
    def score(outputs: Tensors, source: Tensors, batch: Batch) -> Array:
        wanted = batch.labels if by_labels else _by_row(source[output], batch)
        assert wanted is not None
        found = _by_row(outputs[output], batch)
        if len(found) != batch.rows:
            raise InvalidInput(
                f"output '{output}' has shape {list(found.shape)} for {batch.rows} rows; one answer per row "
                f"is needed for the metric {metric}."
            )
        return score_rows(found, wanted)

    return score


def _by_row(output: Array, batch: Batch) -> Array:
    return output[np.newaxis] if batch.is_whole else output


def _class_pairs(output: Array, labels: Array) -> Array:
    """What each row was taken for, and what it is; a row answered with NaN was taken for no class."""
    found, wanted = row_scores.predicted_and_labels("f1", output, labels)
    if found.dtype.kind in "OSU" or wanted.dtype.kind in "OSU":
        return np.stack([row_scores.text(found), row_scores.text(wanted)], axis=1)
    return np.stack([np.where(row_scores.has_no_nan(output), found, -1), wanted.astype(np.int64)], axis=1)


_WITH_LABELS: dict[str, tuple[_ScoreRows, Summary]] = {
    "top1": (row_scores.is_label, MeanOfHits()),
    "top5": (row_scores.is_label_among_best, MeanOfHits()),
    "f1": (_class_pairs, MacroF1()),
    "mse": (row_scores.squared_error, MeanOfScores(higher_is_better=False)),
    "cosine": (row_scores.cosine, MeanOfScores(higher_is_better=True)),
}
