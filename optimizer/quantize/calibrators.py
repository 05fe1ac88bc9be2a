"""Choose the range that a tensor's eight bits shall cover: all that was seen, or less, so that the steps are finer.

minmax       all that was seen
percentile   all but one value in ten thousand
mse          the range whose rounding and clipping errors have the least mean square, on the histogram
entropy      the range whose quantized histogram diverges least from the real one (Kullback-Leibler; Migacz,
             "8-bit inference with TensorRT", 2017), searched over the same shrunken ranges
per_tensor   for each tensor whichever of these harms the model's outputs least when it alone is quantized
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.calibration import CalibrationTable
from optimizer.quantize.observation import BINS, Observation
from optimizer.quantize.switched_graph import SwitchedGraph
from optimizer.trial import Calibrator

CALIBRATORS: tuple[Calibrator, ...] = ("minmax", "percentile", "mse", "entropy")
_LEVELS = 256
_TAIL = 1e-4
_SHRINKS = np.linspace(1.0, 0.2, 81)
# What a calibrator must gain, as a share of the error, to be taken in place of min-max, which never clips.
_CLEARLY = 0.98

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ChosenRange:
    """The range of one tensor, which calibrator it comes from, and the error that it causes, if that was measured."""

    low: float
    high: float
    calibrator: str
    error: float | None = None


def range_of(observation: Observation, calibrator: Calibrator, levels: int = _LEVELS, symmetric: bool = False) -> Range:
    """Choose one tensor's range; it always holds zero, which padding and ReLU need exactly.

    Args:
        observation: of the tensor, with counts for anything but min-max.
        calibrator: any but `per_tensor`, which needs the model.
        levels: how many values the integers have.
        symmetric: the range is as wide below zero as above.
    """
    low, high = min(observation.lowest, 0.0), max(observation.highest, 0.0)
    if calibrator == "percentile" and _is_counted(observation):
        low, high = _percentile(observation)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if calibrator in ("mse", "entropy") and _is_counted(observation) and high > low:
        cost = _squared_errors if calibrator == "mse" else _divergences
        shrink = float(_SHRINKS[int(np.argmin(cost(observation, (low, high), levels)))])
        low, high = low * shrink, high * shrink
    return float(low), float(high)


def choose_ranges(
    graph: Graph, table: CalibrationTable, calibrator: Calibrator, symmetric: bool, feeds: Sequence[Tensors] = ()
) -> dict[str, ChosenRange]:
    """Choose every observed tensor's range.

    Args:
        graph: the float graph that was observed.
        table: what was observed; with histograms for anything but min-max.
        calibrator: one for all tensors, or `per_tensor`.
        symmetric: see `range_of`.
        feeds: small batches of rows that `per_tensor` judges by.

    Raises:
        EngineFailed: the graph cannot run the feeds.
    """
    if calibrator != "per_tensor":
        return {
            name: ChosenRange(*range_of(found, calibrator, symmetric=symmetric), calibrator)
            for name, found in table.observations.items()
        }
    names = list(table.observations)
    switched = SwitchedGraph(graph, names, _rows_for(graph, feeds), symmetric)
    try:
        return {name: _least_harmful(switched, name, table.observations[name], symmetric) for name in names}
    finally:
        switched.close()


def _least_harmful(switched: SwitchedGraph, name: str, found: Observation, symmetric: bool) -> ChosenRange:
    ranges = {one: range_of(found, one, symmetric=symmetric) for one in CALIBRATORS}
    errors: dict[Range, float] = {}
    for one in ranges.values():
        if one not in errors:
            errors[one] = switched.error(name, one)
    best = min(CALIBRATORS, key=lambda one: errors[ranges[one]])
    if not errors[ranges[best]] < _CLEARLY * errors[ranges["minmax"]]:
        best = "minmax"
    return ChosenRange(*ranges[best], best, errors[ranges[best]])


def _rows_for(graph: Graph, feeds: Sequence[Tensors]) -> Sequence[Tensors]:
    """Fewer batches for larger models: each is run for every tensor and calibrator."""
    most = 4 if graph.size_bytes < 2_000_000 else 1
    return feeds[:most]


def _is_counted(observation: Observation) -> bool:
    return observation.counts is not None and observation.highest > observation.lowest


def _percentile(observation: Observation) -> Range:
    """Leave out half of the tail at either end."""
    assert observation.counts is not None
    share = np.cumsum(observation.counts) / max(1, int(observation.counts.sum()))
    first = int(np.searchsorted(share, _TAIL / 2))
    last = int(np.searchsorted(share, 1 - _TAIL / 2))
    width = (observation.highest - observation.lowest) / BINS
    low = observation.lowest + width * first
    high = observation.lowest + width * min(BINS, last + 1)
    return min(low, 0.0), max(high, 0.0)


def _squared_errors(observation: Observation, full: Range, levels: int) -> Array:
    """Mean squared error of quantizing the histogram, for each shrunken range."""
    assert observation.counts is not None
    centres, counts = observation.centres, observation.counts.astype(np.float64)
    return np.array([float(counts @ (_quantized(centres, full, shrink, levels) - centres) ** 2) for shrink in _SHRINKS])


def _quantized(values: Array, full: Range, shrink: float, levels: int) -> Array:
    low, high = full[0] * shrink, full[1] * shrink
    step = (high - low) / (levels - 1)
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step)


def _divergences(observation: Observation, full: Range, levels: int) -> Array:
    """Divergence of the histogram, clipped and put into as many bins as there are levels, from the one as it is.

    The zeros of a ReLU are left out, as TensorRT does: they are exact in any range, and would outweigh all else.
    """
    assert observation.counts is not None
    centres, counts = observation.centres, observation.counts.astype(np.float64)
    counts[int(np.argmin(np.abs(centres)))] = 0.0
    return np.array([_divergence(centres, counts, full, shrink, levels) for shrink in _SHRINKS])


def _divergence(centres: Array, counts: Array, full: Range, shrink: float, levels: int) -> float:
    low, high = full[0] * shrink, full[1] * shrink
    clipped = np.clip(centres, low, high)
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return float("inf")
    real = np.where(inside, counts, 0.0)
    edges = np.flatnonzero(inside)
    real[edges[0]] += counts[centres < low].sum()
    real[edges[-1]] += counts[centres > high].sum()
    level = np.minimum(((clipped - low) / (high - low) * levels).astype(np.int64), levels - 1)
    is_filled = inside & (counts > 0)
    mass = np.bincount(level[is_filled], counts[is_filled], minlength=levels)
    shared_by = np.bincount(level[is_filled], minlength=levels)
    spread = np.where(is_filled, mass[level] / np.maximum(1, shared_by[level]), 0.0)
    p, q = real[inside] / real.sum(), spread[inside] / max(spread.sum(), 1e-12)
    keep = p > 0
    return float(np.sum(p[keep] * np.log(p[keep] / np.maximum(q[keep], 1e-9))))
