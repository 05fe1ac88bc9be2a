"""Observe tensors while real rows pass, in memory that does not grow with the rows.

First pass: the graph itself reduces every observed tensor to its lowest and highest value; the pass ends when no range
has grown for a while. Second pass, only for histograms: the same rows again, and of some batches, evenly spread over
them, the values are counted into bins of the ranges found. What is known is saved every few batches, so that a
calibration that was killed goes on where it was.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.hardware import threads_per_instance
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.calibration_state import Progress, chained_digest, load_progress, rows_of, save_progress
from optimizer.quantize.histograms import HistogramCounter
from optimizer.quantize.observation import BINS, Observation
from optimizer.quantize.range_observer import RangeObserver

_GROWTH = 1e-3
_LEAST_ROWS = 512
_QUIET_ROWS = 256
_SAVE_EVERY = 4

# Histograms say how values are spread, not how far they reach: fewer rows tell it, about so many.
_COUNTED_ROWS = 256

ReadFeeds = Callable[[], Iterable[Tensors]]


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """What was observed of each tensor, and on what.

    Attributes:
        observations: by tensor.
        rows: that were read.
        rows_available: that were there.
        has_converged: whether reading ended because no range grew any more.
        model_fingerprint: of the graph that was observed.
        feeds_fingerprint: of the feeds that were read, in order.
    """

    observations: dict[str, Observation]
    rows: int
    rows_available: int
    has_converged: bool
    model_fingerprint: str
    feeds_fingerprint: str

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value by tensor."""
        return {name: (found.lowest, found.highest) for name, found in self.observations.items()}


def calibrate(
    graph: Graph,
    tensors: Sequence[str],
    read_feeds: ReadFeeds,
    rows_available: int,
    workdir: Path,
    *,
    histograms: bool = False,
    state: Path | None = None,
    threads: int | None = None,
    is_whole: bool = False,
) -> CalibrationTable:
    """Run the rows and note what each tensor does.

    Args:
        graph: what is observed.
        tensors: FP32 values that it computes or is fed.
        read_feeds: opens the stream of feeds, always the same; it is read once, or twice for histograms.
        rows_available: how many rows there are, for the record.
        workdir: for the graph with its reductions.
        histograms: count values into bins as well.
        state: where progress is kept and resumed from; what lies there of another model or other feeds is ignored.
        threads: inside one operator.
        is_whole: each feed is one row, of a model without an axis of rows; else its first axis counts the rows.

    Raises:
        EngineFailed: the model cannot run these feeds.
    """
    fingerprint = graph.fingerprint()
    model = sha256(f"{fingerprint}{list(tensors)}".encode()).hexdigest()
    run = _Run(tuple(tensors), model, read_feeds, state, threads or threads_per_instance(1), is_whole)
    progress = run.ranged(graph, workdir)
    if histograms:
        progress = run.counted(graph, workdir, progress)
    return CalibrationTable(
        _observations(tensors, progress),
        progress.rows_ranged,
        rows_available,
        progress.has_converged,
        fingerprint,
        progress.digest,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One calibration: what stays the same through both passes."""

    tensors: tuple[str, ...]
    model: str
    read_feeds: ReadFeeds
    state: Path | None
    threads: int
    is_whole: bool

    def ranged(self, graph: Graph, workdir: Path) -> Progress:
        """The first pass, or what is left of it."""
        progress = self._resumed() or self._fresh()
        if progress.rows_ranged:
            return progress
        observer = RangeObserver(graph, self.tensors, workdir, self.threads)
        try:
            for feed in self._from(progress.batches):
                self._widen(progress, *observer.observe(feed), feed)
                self._save_sometimes(progress)
                progress.has_converged = _is_quiet(progress)
                if progress.has_converged:
                    break
        finally:
            observer.close()
        progress.rows_ranged = progress.rows
        self._save(progress)
        return progress

    def counted(self, graph: Graph, workdir: Path, progress: Progress) -> Progress:
        """The second pass over the rows of the first, into bins of the ranges that it found."""
        if not progress.is_counting:
            progress.counts = np.zeros((len(self.tensors), BINS), np.int64)
            progress.batches, progress.rows, progress.is_counting = 0, 0, True
        if progress.rows >= progress.rows_ranged:
            return progress
        every = max(1, progress.rows_ranged // _COUNTED_ROWS)
        counter = HistogramCounter(graph, self.tensors, progress.lowest, progress.highest, workdir, self.threads)
        try:
            for feed in self._from(progress.batches):
                if progress.batches % every == 0:
                    counter.add(feed, progress.counts)
                progress.count_feed(self._rows_of(feed))
                self._save_sometimes(progress)
                if progress.rows >= progress.rows_ranged:
                    break
        finally:
            counter.close()
        self._save(progress)
        return progress

    def _fresh(self) -> Progress:
        count = len(self.tensors)
        return Progress(self.model, np.full(count, np.inf), np.full(count, -np.inf))

    def _resumed(self) -> Progress | None:
        """A saved state, if the feeds that it has read are those that are there now."""
        progress = load_progress(self.state, self.model) if self.state is not None else None
        if progress is None:
            return None
        wanted = progress.rows_ranged or progress.rows
        has_ended = bool(progress.rows_ranged) and not progress.has_converged
        digest, rows = "", 0
        for feed in self.read_feeds():
            if rows >= wanted:
                return progress if digest == progress.digest and not has_ended else None
            digest = chained_digest(digest, feed)
            rows += self._rows_of(feed)
        return progress if digest == progress.digest else None

    def _from(self, batches: int) -> Iterator[Tensors]:
        return islice(self.read_feeds(), batches, None)

    def _widen(self, progress: Progress, lowest: Array, highest: Array, feed: Tensors) -> None:
        with np.errstate(invalid="ignore"):
            width = progress.highest - progress.lowest
            growth = np.maximum(progress.lowest - lowest, highest - progress.highest)
            has_grown = bool(np.any(~(growth <= _GROWTH * width)))
        # `fmin` would forget that a range was not a number; `minimum` keeps it, and the quantizer then refuses.
        progress.lowest = np.minimum(progress.lowest, lowest)
        progress.highest = np.maximum(progress.highest, highest)
        progress.digest = chained_digest(progress.digest, feed)
        progress.count_feed(self._rows_of(feed))
        if has_grown:
            progress.grown_at = progress.rows

    def _rows_of(self, feed: Tensors) -> int:
        return rows_of(feed, self.is_whole)

    def _save_sometimes(self, progress: Progress) -> None:
        if progress.batches % _SAVE_EVERY == 0:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        if self.state is not None:
            save_progress(progress, self.state)


def _is_quiet(progress: Progress) -> bool:
    return progress.rows >= _LEAST_ROWS and progress.rows - progress.grown_at >= _QUIET_ROWS


def _observations(tensors: Sequence[str], progress: Progress) -> dict[str, Observation]:
    counts = list(progress.counts) if len(progress.counts) else [None] * len(tensors)
    return {
        name: Observation(float(lowest), float(highest), count)
        for name, lowest, highest, count in zip(tensors, progress.lowest, progress.highest, counts, strict=True)
    }
