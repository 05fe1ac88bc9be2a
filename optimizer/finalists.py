"""The few trials that are measured once more, side by side with the source, over the whole latency curve."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed
from enginehouse.evidence import CandidateRecord, Speedup
from enginehouse.tensor import Tensors
from optimizer.build.memory import memory_bytes
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.evaluate.benchmark import Benchmark, Schedule, benchmark
from optimizer.plan import Plan
from optimizer.recipe import Objective
from optimizer.search.layer_search import Value
from optimizer.search.trial_runner import TrialRunner
from optimizer.search.tried import SOURCE, Tried

_MOST = 5


@dataclass(frozen=True, slots=True)
class Finalists:
    """Engines that are open, by candidate name, the source among them, with what was measured of each."""

    engines: Mapping[str, Engine]
    measured: Benchmark | None
    memory: Mapping[str, int]

    def facts(self, name: str, objective: Objective, batches: Sequence[int]) -> dict[str, object]:
        """Latency, speed-up and memory for the record of one candidate."""
        facts: dict[str, object] = {"memory_bytes": self.memory.get(name)}
        if self.measured is not None and name in self.measured.names:
            facts["latency"] = self.measured.latency(name)
            facts["speedup"] = None if name == SOURCE else _speedup(self.measured, name, objective, batches)
        return facts


def pick_finalists(tried: Sequence[Tried], value: Value) -> tuple[Tried, ...]:
    """The rewritten graph, and the best accepted trials of the search; of each engine at least one."""
    accepted = sorted((one for one in tried if one.is_accepted), key=value, reverse=True)
    plain = [one for one in accepted if one.trial.precision == "fp32" and one.trial.engine == "onnxruntime"]
    first_of_each = {one.trial.engine: one for one in reversed(accepted)}
    picked = {one.record.name: one for one in (*plain, *first_of_each.values(), *accepted[:_MOST])}
    return tuple(picked.values())


def measure_finalists(
    plan: Plan,
    runner: TrialRunner,
    source: Artifact,
    picked: Sequence[Tried],
    feeds: Mapping[int, Tensors],
    stack: ExitStack,
    on_round: Callable[[int, int], None] | None = None,
) -> Finalists:
    """Open and measure; one that cannot run a batch size of the curve is out.

    Raises:
        EngineFailed: the source itself cannot run it.
    """
    engines: dict[str, Engine] = {SOURCE: runner.bench.source}
    for one in picked:
        engine = open_artifact(runner.artifact(one), runner.bench.threads)
        stack.callback(engine.close)
        if _can_run(engine, feeds):
            engines[one.record.name] = engine
    if not runner.bench.is_timed:
        return Finalists(engines, None, {})
    schedule = Schedule(plan.batch_sizes, plan.recipe.benchmark_seconds, plan.recipe.seed)
    measured = benchmark(engines, feeds, schedule, on_round)
    memory = {}
    if plan.recipe.objective == "memory":
        artifacts = {SOURCE: source, **{one.record.name: runner.artifact(one) for one in picked}}
        largest = feeds[max(feeds)]
        memory = {name: memory_bytes(artifacts[name], largest, runner.bench.threads) for name in engines}
    return Finalists(engines, measured, memory)


def with_measurements(
    records: Sequence[CandidateRecord], finalists: Finalists, objective: Objective, batches: Sequence[int]
) -> list[CandidateRecord]:
    """The records of all candidates, those of the finalists with their curves."""
    return [record.model_copy(update=finalists.facts(record.name, objective, batches)) for record in records]


def _speedup(measured: Benchmark, name: str, objective: Objective, batches: Sequence[int]) -> Speedup:
    if objective == "throughput":
        return measured.throughput_gain(name)
    return measured.speedup(name, batches)


def _can_run(engine: Engine, feeds: Mapping[int, Tensors]) -> bool:
    try:
        for feed in feeds.values():
            engine.run(feed)
    except EngineFailed:
        return False
    return True
