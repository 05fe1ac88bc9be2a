"""Choose the range that a tensor's eight bits shall cover: all that was seen, or less, so that the steps are finer.

minmax       all that was seen
percentile   all but one value in ten thousand
mse          the range whose rounding and clipping errors have the least mean square, on the histogram
entropy      the range whose quantized histogram diverges least from the real one (Kullback-Leibler; Migacz,
             "8-bit inference with TensorRT", 2017), searched over the same shrunken ranges
per_tensor   for each tensor whichever of these harms the model's outputs least when it alone is quantized; a tensor
             that does next to no harm, compared with the others, keeps all that was seen, and of ranges that are
             nearly the same one is tried
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from enginehouse.hardware import threads_per_instance
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.calibration import CalibrationTable
from optimizer.quantize.calibration_state import rows_of
from optimizer.quantize.feed_parts import feed_parts, row_bytes
from optimizer.quantize.observation import BINS, Observation
from optimizer.quantize.range_search import Cost, Range, divergence, searched_range, squared_error
from optimizer.quantize.switched_graph import SwitchedGraph
from optimizer.trial import Calibrator

CALIBRATORS: tuple[Calibrator, ...] = ("minmax", "percentile", "mse", "entropy")
_LEVELS = 256
_TAIL = 1e-4
# What a calibrator must gain, as a share of the error, to be taken in place of min-max, which never clips.
_CLEARLY = 0.98
# Ranges that differ by less than this share of their width make no difference worth a run.
_ALIKE = 0.03
# A tensor that does less than this share of an equal part of all harm is not worth the runs: a third of them on a
# ResNet-50, whose error on other rows stayed the same.
_NEXT_TO_NONE = 0.25
# What `per_tensor` judges by: two images of 224 x 224 for a ResNet-50, 32 rows for what is small.
_JUDGING_BYTES = 64 << 20
_LEAST_JUDGING_ROWS = 2
_MOST_JUDGING_FEEDS = 4

_COSTS: dict[Calibrator, Cost] = {"mse": squared_error, "entropy": divergence}


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
    if calibrator in _COSTS and _is_counted(observation):
        low, high = searched_range(observation, (low, high), levels, _COSTS[calibrator], symmetric)
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
    switched = SwitchedGraph(graph, names, _judging_feeds(graph, names, feeds), symmetric)
    try:
        return _least_harmful(switched, table.observations, symmetric)
    finally:
        switched.close()


def _least_harmful(
    switched: SwitchedGraph, observations: Mapping[str, Observation], symmetric: bool
) -> dict[str, ChosenRange]:
    """Min-max for every tensor first; then the others where there is harm to undo."""
    found = {}
    for name, observation in observations.items():
        bounds = range_of(observation, "minmax", symmetric=symmetric)
        found[name] = ChosenRange(*bounds, "minmax", switched.error(name, bounds))
    harms = [chosen.error for chosen in found.values() if chosen.error is not None and np.isfinite(chosen.error)]
    enough = _NEXT_TO_NONE * sum(harms) / max(1, len(harms))
    for name, chosen in found.items():
        if chosen.error is not None and chosen.error > enough:
            found[name] = _improved(switched, name, observations[name], chosen, symmetric)
    return found


def _improved(
    switched: SwitchedGraph, name: str, observation: Observation, minmax: ChosenRange, symmetric: bool
) -> ChosenRange:
    assert minmax.error is not None
    tried = [(minmax.low, minmax.high)]
    best, least = minmax, _CLEARLY * minmax.error
    for calibrator in CALIBRATORS:
        bounds = range_of(observation, calibrator, symmetric=symmetric)
        if any(_are_alike(bounds, other) for other in tried):
            continue
        tried.append(bounds)
        error = switched.error(name, bounds)
        if error < least:
            best, least = ChosenRange(*bounds, calibrator, error), error
    return best


def _are_alike(first: Range, second: Range) -> bool:
    return max(abs(first[0] - second[0]), abs(first[1] - second[1])) <= _ALIKE * (second[1] - second[0])


def _judging_feeds(graph: Graph, names: Sequence[str], feeds: Sequence[Tensors]) -> list[Tensors]:
    """Fewer rows for larger models: each is run for every tensor and calibrator."""
    if not feeds:
        return []
    with TemporaryDirectory() as folder:
        size = sum(row_bytes(graph, names, feeds[0], Path(folder), threads_per_instance(1)))
    left = max(_LEAST_JUDGING_ROWS, _JUDGING_BYTES // max(1, size))
    found = []
    for feed in feeds[:_MOST_JUDGING_FEEDS]:
        found.append(next(feed_parts(feed, left if graph.batch_axis_open else None)))
        left -= rows_of(found[-1], is_whole=not graph.batch_axis_open)
        if left <= 0:
            break
    return found


def _is_counted(observation: Observation) -> bool:
    width = observation.highest - observation.lowest
    return observation.counts is not None and bool(np.isfinite(width)) and width > 0


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
