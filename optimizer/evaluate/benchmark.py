"""Latency of the candidates and the original, measured side by side.

Every round visits every batch size, and at each one all engines in a freshly shuffled order, so that a machine that
slows down slows all of them. A visit lasts a fixed share of the time given, and at least one run. Engines are opened
with the threads that the server would give one instance, which do not spin between runs. The original runs in ONNX
Runtime with its default graph optimizations: it is fused at load as anyone's would be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.evidence import LatencyPoint, Speedup
from enginehouse.tensor import Tensors
from optimizer.evaluate.statistics import lower_95_of_median

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
SOURCE = "source"
_FEWEST_ROUNDS, _MOST_ROUNDS = 8, 24
_WARM_UP_RUNS = 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to measure.

    Attributes:
        batch_sizes: which batches; only 1 for a model without an open batch axis.
        seconds: for each batch size, shared by all engines; a slow engine takes longer.
        seed: of the shuffles.
        fewest_rounds: however slow the engines are.
    """

    batch_sizes: Sequence[int]
    seconds: float
    seed: int
    fewest_rounds: int = _FEWEST_ROUNDS


@dataclass(slots=True)
class _Times:
    """Seconds of each run of one engine at one batch size, round by round."""

    rounds: list[list[float]] = field(default_factory=list)

    def medians(self) -> Array:
        return np.array([np.median(times) for times in self.rounds])

    def milliseconds(self, quantile: float) -> float:
        return float(np.quantile(np.concatenate([np.array(times) for times in self.rounds]), quantile) * 1e3)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All times; the engine called `source` is what the others are compared with."""

    times: Mapping[tuple[str, int], _Times]
    batch_sizes: Sequence[int]
    seed: int

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.times}

    @property
    def rounds(self) -> int:
        return len(self.times[SOURCE, self.batch_sizes[0]].rounds)

    def latency(self, name: str) -> tuple[LatencyPoint, ...]:
        """The latency curve of one engine."""
        return tuple(
            LatencyPoint(
                batch=batch,
                median_ms=self.times[name, batch].milliseconds(0.5),
                p99_ms=self.times[name, batch].milliseconds(0.99),
                source_median_ms=self.times[SOURCE, batch].milliseconds(0.5),
                rounds=len(self.times[name, batch].rounds),
            )
            for batch in self.batch_sizes
        )

    def speedup(self, name: str, batch_sizes: Sequence[int] = ()) -> Speedup:
        """Source time over candidate time: per round the geometric mean over the batch sizes, by default all."""
        logs = [
            np.log(self.times[SOURCE, batch].medians() / self.times[name, batch].medians())
            for batch in batch_sizes or self.batch_sizes
        ]
        return self._over_rounds(np.exp(np.mean(logs, axis=0)))

    def throughput_gain(self, name: str) -> Speedup:
        """Rows per second at the candidate's best batch size over those at the source's best, per round."""
        return self._over_rounds(self._best_rates(name) / self._best_rates(SOURCE))

    def _best_rates(self, name: str) -> Array:
        rates = [batch / self.times[name, batch].medians() for batch in self.batch_sizes]
        return np.asarray(np.max(rates, axis=0))

    def _over_rounds(self, gains: Array) -> Speedup:
        return Speedup(median=float(np.median(gains)), lower_95=lower_95_of_median(gains, self.seed))


def benchmark(
    engines: Mapping[str, Engine],
    feeds: Mapping[int, Tensors],
    schedule: Schedule,
    on_round: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Measure all engines, of which one is called `source`.

    Args:
        engines: by name; all of them can run.
        feeds: what to run at each batch size.
        schedule: batch sizes, time and seed.
        on_round: told the rounds done and the rounds there will be.

    Raises:
        EngineFailed: an engine cannot run one of the batch sizes.
    """
    once = _warm_up(engines, feeds, schedule.batch_sizes)
    seconds = schedule.seconds * len(schedule.batch_sizes)
    rounds = round_count(sum(once.values()), seconds, schedule.fewest_rounds)
    visit_seconds = schedule.seconds / rounds / len(engines)
    random = np.random.default_rng(schedule.seed)
    times = {key: _Times() for key in once}
    for number in range(rounds):
        for batch in schedule.batch_sizes:
            for name in random.permutation(sorted(engines)).tolist():
                times[name, batch].rounds.append(_visit(engines[name], feeds[batch], visit_seconds))
        if on_round is not None:
            on_round(number + 1, rounds)
    return Benchmark(times, schedule.batch_sizes, schedule.seed)


def round_count(seconds_per_round: float, seconds: float, fewest: int = _FEWEST_ROUNDS) -> int:
    """As many rounds as the time allows, within limits; each engine runs at least once per round and batch size."""
    return int(min(_MOST_ROUNDS, max(fewest, seconds / max(seconds_per_round, 1e-9))))


def _warm_up(
    engines: Mapping[str, Engine], feeds: Mapping[int, Tensors], batch_sizes: Sequence[int]
) -> dict[tuple[str, int], float]:
    """Run each engine a few times at each batch size and note the fastest run."""
    return {
        (name, batch): min(_timed(engine, feeds[batch]) for _ in range(_WARM_UP_RUNS))
        for batch in batch_sizes
        for name, engine in engines.items()
    }


def _visit(engine: Engine, feeds: Tensors, seconds: float) -> list[float]:
    times = [_timed(engine, feeds)]
    spent = times[0]
    while spent < seconds:
        times.append(_timed(engine, feeds))
        spent += times[-1]
    return times


def _timed(engine: Engine, feeds: Tensors) -> float:
    start = perf_counter()
    engine.run(feeds)
    return perf_counter() - start
