"""How sure a measured drop is: paired, because original and candidate answer the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np

from enginehouse.dtype import Array

SIGNIFICANCE = 0.05
_NORMAL_95 = 1.6448536269514722
_RESAMPLES = 2000
# Beyond this many rows the mean of resampled drops is normal for all purposes, and resampling is only slow.
_RESAMPLED_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class PairedDrop:
    """A mean drop per row, the bound it stays below with 95 % confidence, and the chance of no drop at all.

    Attributes:
        point: mean over the rows; positive is worse.
        upper_95: one-sided.
        p_value: one-sided: how likely rows at least this bad are, if the candidate is no worse than the original.
    """

    point: float
    upper_95: float
    p_value: float

    @property
    def is_significant(self) -> bool:
        return self.p_value < SIGNIFICANCE


def drop_of_hits(lost: int, won: int, rows: int) -> PairedDrop:
    """Compare hits: the exact McNemar test, and the adjusted Wald interval of Bonett and Price (2012).

    Args:
        lost: rows that only the original gets right.
        won: rows that only the candidate gets right.
        rows: all rows.
    """
    worse, better = (lost + 1) / (rows + 2), (won + 1) / (rows + 2)
    spread = sqrt((worse + better - (worse - better) ** 2) / (rows + 2))
    upper = min(1.0, worse - better + _NORMAL_95 * spread)
    return PairedDrop((lost - won) / rows, upper, _upper_tail(lost, lost + won))


def drop_of_scores(drops: Array, seed: int) -> PairedDrop:
    """Compare real-valued scores: a seeded bootstrap of the mean of the paired drops."""
    point = float(drops.mean())
    if not drops.any():
        return PairedDrop(0.0, 0.0, 1.0)
    if len(drops) > _RESAMPLED_ROWS:
        means = np.random.default_rng(seed).normal(point, float(drops.std()) / sqrt(len(drops)), _RESAMPLES)
    else:
        means = _resampled_means(drops, np.random.default_rng(seed))
    p_value = (1 + int((means <= 0).sum())) / (1 + len(means))
    return PairedDrop(point, float(np.quantile(means, 0.95)), p_value)


def drop_of_sets(counts: Array, drop_of_weights: Callable[[Array], float], seed: int) -> PairedDrop:
    """Compare scores that are no mean over rows: a seeded bootstrap of the rows.

    Args:
        counts: rows of each kind; rows of a kind are alike in the original's answer, the candidate's and the label.
        drop_of_weights: the drop, where each kind has so many rows.
        seed: of the resampling.
    """
    rows = int(counts.sum())
    point = drop_of_weights(counts.astype(np.float64))
    random = np.random.default_rng(seed)
    draws = (random.multinomial(rows, counts / rows).astype(np.float64) for _ in range(_RESAMPLES))
    drops = np.array([drop_of_weights(weights) for weights in draws])
    p_value = (1 + int((drops <= 0).sum())) / (1 + len(drops))
    return PairedDrop(point, float(np.quantile(drops, 0.95)), p_value)


def lower_95_of_median(values: Array, seed: int) -> float:
    """The one-sided lower bound of a median, by a seeded bootstrap."""
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(values), (_RESAMPLES, len(values)))
    return float(np.quantile(np.median(values[picks], axis=1), 0.05))


def _upper_tail(successes: int, trials: int) -> float:
    """Chance of at least this many heads in fair tosses, exactly."""
    term = comb(trials, successes)
    total = 0
    for count in range(successes, trials + 1):
        total += term
        term = term * (trials - count) // (count + 1)
    return float(total / 2**trials)


def _resampled_means(drops: Array, random: np.random.Generator) -> Array:
    return np.array([drops[random.integers(0, len(drops), len(drops))].mean() for _ in range(_RESAMPLES)])
