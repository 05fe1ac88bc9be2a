"""From the rows of a set to the one number that is judged, and how sure its drop is."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from enginehouse.dtype import Array
from optimizer.evaluate.statistics import PairedDrop, drop_of_hits, drop_of_scores, drop_of_sets


class Summary(Protocol):
    """What becomes of the rows' scores; original and candidate are paired row by row."""

    def total(self, scores: Array) -> float: ...

    def drop(self, source: Array, candidate: Array, seed: int, /) -> PairedDrop:
        """How much worse the candidate is; negative where it is better."""
        ...


class MeanOfHits:
    """Rows score 0 or 1, so that an exact test applies."""

    def total(self, scores: Array) -> float:
        return float(scores.mean())

    def drop(self, source: Array, candidate: Array, _seed: int, /) -> PairedDrop:
        return drop_of_hits(int((source > candidate).sum()), int((source < candidate).sum()), len(source))


@dataclass(frozen=True, slots=True)
class MeanOfScores:
    """Any numbers; `higher_is_better` is False for errors."""

    higher_is_better: bool

    def total(self, scores: Array) -> float:
        return float(scores.mean())

    def drop(self, source: Array, candidate: Array, seed: int, /) -> PairedDrop:
        return drop_of_scores(source - candidate if self.higher_is_better else candidate - source, seed)


class MacroF1:
    """Mean over the classes of 2 TP / (2 TP + FP + FN); a row is what it was taken for and what it is.

    A class counts when it was given or is the label of some row. F1 is no mean over rows, so its drop is tested on
    resampled rows.
    """

    def total(self, scores: Array) -> float:
        _, codes = np.unique(scores, return_inverse=True)
        found, wanted = codes.reshape(-1, 2).T
        return _macro_f1(found, wanted, np.ones(len(found)))

    def drop(self, source: Array, candidate: Array, seed: int, /) -> PairedDrop:
        if np.array_equal(source, candidate):
            return PairedDrop(0.0, 0.0, 1.0)
        _, codes = np.unique(np.stack([source[:, 1], source[:, 0], candidate[:, 0]], axis=1), return_inverse=True)
        cases, counts = np.unique(codes.reshape(-1, 3), axis=0, return_counts=True)
        wanted, before, after = cases.T
        return drop_of_sets(
            counts, lambda weights: _macro_f1(before, wanted, weights) - _macro_f1(after, wanted, weights), seed
        )


def _macro_f1(found: Array, wanted: Array, weights: Array) -> float:
    classes = int(max(found.max(), wanted.max())) + 1
    right = np.bincount(wanted[found == wanted], weights[found == wanted], classes)
    given = np.bincount(found, weights, classes) + np.bincount(wanted, weights, classes)
    return float(np.mean(2 * right[given > 0] / given[given > 0]))
