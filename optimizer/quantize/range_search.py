"""Search the range that harms a histogram least, by mean squared error or by divergence.

Ranges are shrunk from all that was seen: both ends together first, then, where they may differ, each end alone, because
an activation such as GELU is short below zero and long above.
"""

from collections.abc import Callable, Iterable

import numpy as np

from enginehouse.dtype import Array
from optimizer.quantize.observation import Observation

# Evenly at first; far below for the one value in a million that makes all others small.
_SHRINKS = np.concatenate([np.linspace(1.0, 0.2, 81), np.geomspace(0.19, 0.01, 20)])
_LEAST_SHARE = 1e-9

Range = tuple[float, float]
Cost = Callable[[Observation, Range, int], float]


def searched_range(observation: Observation, full: Range, levels: int, cost: Cost, symmetric: bool) -> Range:
    """The cheapest range inside `full`; of equally cheap ones the widest, so that nothing is clipped for nothing."""

    def cheapest(candidates: Iterable[Range]) -> Range:
        return min(candidates, key=lambda one: cost(observation, one, levels))

    low, high = full
    best = cheapest((low * shrink, high * shrink) for shrink in _SHRINKS)
    if symmetric or low == 0 or high == 0:
        return best
    best = cheapest([best, *((best[0], high * shrink) for shrink in _SHRINKS)])
    return cheapest([best, *((low * shrink, best[1]) for shrink in _SHRINKS)])


def squared_error(observation: Observation, bounds: Range, levels: int) -> float:
    """Squared error of all counted values, rounded and clipped to the levels of this range."""
    low, high = bounds
    values, counts = observation.centres, observation.counts
    assert counts is not None
    step = (high - low) / (levels - 1)
    zero = np.round(-low / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step
    return float(counts @ (rounded - values) ** 2)


def divergence(observation: Observation, bounds: Range, levels: int) -> float:
    """Divergence of the histogram in as many bins as there are levels from the histogram clipped to this range.

    The zeros of a ReLU are left out, as TensorRT does: they are exact in any range, and would outweigh all else.
    """
    low, high = bounds
    centres, counts = observation.centres, _without_zero(observation)
    is_inside = (centres >= low) & (centres <= high)
    inside = np.flatnonzero(is_inside)
    if not counts[is_inside].any():
        return float("inf")
    clipped = counts[is_inside]
    clipped[0] += counts[: inside[0]].sum()
    clipped[-1] += counts[inside[-1] + 1 :].sum()
    spread = _through_levels(counts[is_inside], clipped > 0, centres[is_inside], bounds, levels)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    keep = p > 0
    return float(np.sum(p[keep] * np.log(p[keep] / np.maximum(q[keep], _LEAST_SHARE))))


def _without_zero(observation: Observation) -> Array:
    assert observation.counts is not None
    counts = observation.counts.astype(np.float64)
    counts[int(np.argmin(np.abs(observation.centres)))] = 0.0
    return counts


def _through_levels(counts: Array, is_filled: Array, centres: Array, bounds: Range, levels: int) -> Array:
    """The filled bins of one level share its values evenly."""
    low, high = bounds
    level = np.minimum(((centres - low) / (high - low) * levels).astype(np.int64), levels - 1)
    mass = np.bincount(level, counts, minlength=levels)
    shared_by = np.bincount(level, is_filled, minlength=levels)
    return np.asarray(np.where(is_filled, mass[level] / np.maximum(1, shared_by[level]), 0.0))
