"""Run one trial: make -> save -> open -> read back -> verify -> measure beside the source; or find it in the cache."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed, MissingExtra, NotSupported
from enginehouse.evidence import CandidateRecord, EngineProof
from enginehouse.tensor import Tensors
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.build.read_back import precision_problem, read_back
from optimizer.evaluate.benchmark import Schedule, benchmark
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.verify import Verification
from optimizer.graph.declined import Declined
from optimizer.make import Made, Workshop
from optimizer.quantize.calibration import CalibrationTable
from optimizer.search.trial_cache import TrialCache
from optimizer.search.tried import SOURCE, Tried
from optimizer.trial import EngineName, Trial

MODEL_FILE = "model.onnx"
_QUICK_SECONDS, _QUICK_ROUNDS = 0.4, 3
_CANNOT_OPEN = (EngineFailed, NotSupported, MissingExtra)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every trial of one build is measured with.

    Attributes:
        source: the original, opened.
        feeds: what to run, by batch size.
        threads: of one instance.
        provider: the execution provider of ONNX Runtime.
        is_timed: False for a target that is not this machine: its times would say nothing.
        may_saturate: the target is an x86 CPU without VNNI, which this machine then simulates.
        seed: of the order in which engines take turns.
    """

    source: Engine
    feeds: Mapping[int, Tensors]
    threads: int
    provider: str
    is_timed: bool
    may_saturate: bool
    seed: int


class TrialRunner:
    """Runs trials, each once.

    Args:
        workshop: makes the graphs.
        reference: judges them.
        bench: measures them.
        cache: where finished trials are kept.
        context: what besides the trial decides its outcome: source, data, tolerance, machine, libraries.
        float_precision: what the rewritten graph computes in, which names the engine that leaves it so.
    """

    def __init__(
        self,
        workshop: Workshop,
        reference: Reference,
        bench: Bench,
        cache: TrialCache,
        context: Mapping[str, Any],
        float_precision: str,
    ) -> None:
        self.workshop = workshop
        self.reference = reference
        self.bench = bench
        self._cache = cache
        self._context = context
        self._float_precision = float_precision
        self._done: dict[str, Tried] = {}
        self.on_trial: Callable[[str], None] = _ignore
        self.cache_hits = 0

    @property
    def tried(self) -> tuple[Tried, ...]:
        """All trials so far, in the order in which they were run."""
        return tuple(self._done.values())

    def run(self, trial: Trial, stage: str) -> Tried:
        """Find out what becomes of a trial; whatever is wrong with it is in its verdict."""
        key = trial.key(self._context)
        if key not in self._done:
            self.on_trial(str(trial))
            found = self._cache.get(key)
            self.cache_hits += found is not None
            self._done[key] = self._named(found or self._run(trial, stage, key))
        return self._done[key]

    def _named(self, tried: Tried) -> Tried:
        """Trials that differ in which layers they lower read alike, so the later ones are numbered."""
        facts = {"name": str(tried.trial)}
        if tried.trial.precision == "fp32" and not tried.trial.layers:
            facts = {"name": facts["name"].replace("fp32", self._float_precision), "precision": self._float_precision}
        taken = sum(one.record.name.partition(" #")[0] == facts["name"] for one in self._done.values())
        facts["name"] += f" #{taken + 1}" if taken else ""
        return tried.model_copy(update={"record": tried.record.model_copy(update=facts)})

    def artifact(self, tried: Tried) -> Artifact:
        """The engine file of a trial that was made."""
        folder = self._cache.folder(tried.trial.key(self._context))
        return self._artifact(tried.trial, folder / tried.file)

    @property
    def timing_cache(self) -> Path:
        """Where TensorRT keeps what it measured."""
        return self._cache.root / "timing.cache"

    @contextmanager
    def opened(self, trial: Trial) -> Iterator[Engine | Declined]:
        """Make and open a trial without judging or keeping it."""
        made = self.workshop.make(trial)
        if isinstance(made, Declined):
            yield made
            return
        folder = self._cache.new_folder()
        try:
            made.graph.save(folder / MODEL_FILE)
            engine = open_artifact(self._artifact(trial, folder / MODEL_FILE), self.bench.threads)
            try:
                yield engine
            finally:
                engine.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _artifact(self, trial: Trial, path: Path) -> Artifact:
        """What is opened to judge a trial: the graph of a plan for TensorRT is judged in ONNX Runtime."""
        engine: EngineName = "onnxruntime" if trial.engine.startswith("tensorrt") else trial.engine
        return Artifact(path, engine, trial.hint, self.bench.provider)

    def _run(self, trial: Trial, stage: str, key: str) -> Tried:
        made = self.workshop.make(trial)
        folder = self._cache.new_folder()
        try:
            if isinstance(made, Declined):
                tried = Tried(trial=trial, record=_record(trial, stage, verdict="declined", reason=made.reason))
            else:
                made.graph.save(folder / MODEL_FILE)
                tried = self._judged(trial, stage, made, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._cache.put(key, folder, tried)
        return tried

    def _judged(self, trial: Trial, stage: str, made: Made, folder: Path) -> Tried:
        artifact = self._artifact(trial, folder / MODEL_FILE)
        size = sum(path.stat().st_size for path in folder.iterdir())
        facts: dict[str, Any] = {
            "trial": trial,
            "file": MODEL_FILE,
            "ranges": {name: (found.low, found.high, found.calibrator) for name, found in made.ranges.items()},
            "calibration": _rows(made.table),
            "repairs": dict(made.details),
            "kept": made.kept,
        }
        try:
            engine = open_artifact(artifact, self.bench.threads)
        except _CANNOT_OPEN as problem:
            record = _record(trial, stage, size_bytes=size, verdict="failed", reason=str(problem))
            return Tried(record=record, **facts)
        try:
            proof = read_back(artifact, self._largest_feeds(), self.bench.threads) if self.bench.is_timed else None
            found = self.reference.verify(engine, trial.precision)
            speed = None if found.has_failed or not self.bench.is_timed else self._quick_speedup(engine)
        except _CANNOT_OPEN as problem:
            record = _record(trial, stage, size_bytes=size, verdict="failed", reason=str(problem))
            return Tried(record=record, **facts)
        finally:
            engine.close()
        verdict = _verdict(trial, found, proof)
        if verdict["verdict"] == "accepted" and (clamped := self._clamped(trial, made)):
            verdict |= {"verdict": "rejected", "reason": clamped}
        record = _record(trial, stage, size_bytes=size, quick_speedup=speed, **verdict)
        return Tried(record=record, proof=proof, worst=found.worst, output_difference=found.output_difference, **facts)

    def _clamped(self, trial: Trial, made: Made) -> str:
        """Say where the target would clamp sums that this machine does not; empty where it would not."""
        if not self.bench.may_saturate or trial.engine != "onnxruntime" or trial.scheme is None:
            return ""
        shares = {layer: share for layer, share in self.workshop.saturation(made).items() if share > 0}
        if not shares:
            return ""
        worst = max(shares, key=lambda layer: shares[layer])
        return f"without VNNI {shares[worst]:.2%} of the sums of {worst} saturate (simulated)"

    def _quick_speedup(self, engine: Engine) -> float:
        sizes = tuple(self.bench.feeds)
        schedule = Schedule(sizes, _QUICK_SECONDS, self.bench.seed, _QUICK_ROUNDS)
        return (
            benchmark({SOURCE: self.bench.source, "trial": engine}, self.bench.feeds, schedule).speedup("trial").median
        )

    def _largest_feeds(self) -> Tensors:
        return self.bench.feeds[max(self.bench.feeds)]


def _verdict(trial: Trial, found: Verification, proof: EngineProof | None) -> dict[str, Any]:
    """What verifying showed, unless the engine does not even compute in what it was asked to."""
    problem = precision_problem(proof, trial.precision) if proof is not None and not trial.layers else ""
    failed = "failed" if found.has_failed else "rejected"
    return {
        "metric": found.metric,
        "max_abs_difference": finite(found.distance.largest),
        "mean_abs_difference": finite(found.distance.mean),
        "batch_invariant": found.invariance.holds if found.invariance else None,
        "batch_difference": finite(found.invariance.difference) if found.invariance else None,
        "verdict": "failed" if problem else "accepted" if found.is_accepted else failed,
        "reason": problem or found.reason,
    }


def _ignore(_: str) -> None:
    """Nobody is told."""


def _rows(table: CalibrationTable | None) -> tuple[int, int, bool] | None:
    return (table.rows, table.rows_available, table.has_converged) if table else None


def _record(trial: Trial, stage: str, **facts: Any) -> CandidateRecord:
    return CandidateRecord(
        name=str(trial),
        precision=trial.precision,
        engine=trial.engine,
        stage=stage,
        trial=trial.model_dump(mode="json"),
        **facts,
    )


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < float("inf") else None
