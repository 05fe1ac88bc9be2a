"""Lay out a version's files, score the test split once, write the evidence and the report, and publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginehouse.engine import Engine
from enginehouse.evidence import EngineRecord, Evidence, Golden, PassRecord, TargetRecord, TestScore
from enginehouse.repository import digest
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.data.samples import sample_feeds
from optimizer.evaluate.final_score import score_test
from optimizer.finalists import Finalists
from optimizer.graph.graph import Graph
from optimizer.layer_records import calibration_record, layer_records
from optimizer.plan import PLATFORM, Plan
from optimizer.publish.engines import BuiltEngine, lay_out
from optimizer.publish.golden import GOLDEN_ROWS
from optimizer.publish.publish import publish
from optimizer.replay import Replay
from optimizer.report.html import write_report
from optimizer.report.steps import Steps
from optimizer.search.choose import Choice
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.search import Searched, family
from optimizer.search.trial_runner import MODEL_FILE, TrialRunner
from optimizer.search.tried import SOURCE, Tried
from optimizer.trial import Precision, Trial
from optimizer.version_record import make_evidence

REPORT_FILE = "report.html"
_TEST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that a version is made of."""

    plan: Plan
    rewritten: Graph
    passes: tuple[PassRecord, ...]
    searched: Searched
    choice: Choice
    finalists: Finalists
    runner: TrialRunner
    source: Artifact

    def tried(self, name: str) -> Tried | None:
        """What a candidate came of; None for the source."""
        return next((one for one in self.searched.tried if one.record.name == name), None)


@dataclass(frozen=True, slots=True)
class _Finished:
    engines: tuple[EngineRecord, ...]
    golden: Golden
    test: TestScore | None


def publish_version(contents: Contents, workdir: Path, steps: Steps, replay: Replay | None) -> Evidence:
    """Make the version's folder and give it its number.

    Raises:
        VerifyFailed: a replay made other bytes.
        AlreadyExists: the model is published with another configuration.
    """
    plan = contents.plan
    files = workdir / "version"
    files.mkdir()
    finished = _Finished(*_engines(contents, files), _score(contents, steps))
    if replay is not None:
        replay.check_files({path.name: digest(path) for path in files.iterdir()})
    with steps.step("publish") as step:
        write_report(_evidence(contents, finished, 0), files / REPORT_FILE)
        evidence = publish(
            plan.recipe.repository,
            plan.config,
            files,
            workdir,
            lambda version: _evidence(contents, finished, version),
        )
        step.note = str(plan.recipe.repository / plan.recipe.name / str(evidence.version))
    return evidence


def _engines(contents: Contents, files: Path) -> tuple[tuple[EngineRecord, ...], Golden]:
    plan = contents.plan
    is_synthetic = plan.data is None or plan.is_random or plan.recipe.golden == "synthetic"
    rows = min(GOLDEN_ROWS, max(1, plan.config.max_batch_size))
    feeds = sample_feeds(plan.graph, None if is_synthetic else plan.data, rows, plan.recipe.seed)
    measured = {one.record.name: one.output_difference for one in contents.searched.tried}
    with _opened(contents) as engines:
        return lay_out(files, engines, contents.runner.bench.source, feeds, measured, synthetic=is_synthetic)


@contextmanager
def _opened(contents: Contents) -> Iterator[list[BuiltEngine]]:
    """The engines of the version: `model.onnx`, the best of another library where it won, and the fallback."""
    choice = contents.choice
    fallback = _fallback(contents)
    portable = choice.portable if choice.portable != SOURCE or choice.chosen == SOURCE else fallback
    wanted = {MODEL_FILE: (portable, "chosen")}
    if choice.chosen != portable:
        library = _trial(contents, choice.chosen).engine
        wanted[f"model.{library}.onnx"] = (choice.chosen, "variant")
    wanted["fallback.onnx"] = (fallback, "fallback")
    opened: list[Engine] = []
    try:
        built = []
        for file, (name, role) in wanted.items():
            engine = contents.finalists.engines.get(name)
            if engine is None:
                engine = open_artifact(_artifact(contents, name), contents.runner.bench.threads)
                opened.append(engine)
            built.append(_built(contents, file, name, role, engine))
        yield built
    finally:
        for engine in opened:
            engine.close()


def _built(contents: Contents, file: str, name: str, role: str, engine: Engine) -> BuiltEngine:
    trial, tried = _trial(contents, name), contents.tried(name)
    record = next(record for record in contents.choice.candidates if record.name == name)
    artifact = _artifact(contents, name)
    return BuiltEngine(
        file=file,
        source_path=artifact.path,
        role=role,  # type: ignore[arg-type]
        platform="openvino" if artifact.engine == "openvino" else PLATFORM,
        provider=artifact.provider,
        precision=record.precision,
        candidate=name,
        settings={"INFERENCE_PRECISION_HINT": artifact.hint} if artifact.engine == "openvino" else {},
        target=_target(contents, trial),
        speedup=record.speedup.median if record.speedup else (1.0 if name == SOURCE else None),
        proof=tried.proof if tried else None,
        engine=engine,
    )


def _target(contents: Contents, trial: Trial) -> TargetRecord:
    """An engine that leaves every layer as it was runs anywhere; another one needs what it was chosen for."""
    machine = contents.plan.recipe.machine
    if trial.precision == "fp32" and not trial.layers:
        return TargetRecord()
    return TargetRecord(
        name=machine.name,
        isa=_needed_isa(trial, machine.isa),
        compute_capability=machine.compute_capability,
        is_measured=machine.is_host,
    )


def _needed_isa(trial: Trial, isa: tuple[str, ...]) -> tuple[str, ...]:
    """U8S8 saturates without VNNI; BF16 is only fast where the processor has it."""
    precisions: set[Precision] = {trial.precision, *trial.layers.values()}
    needed = []
    if "int8" in precisions and trial.scheme == "u8s8":
        needed += [name for name in isa if name in ("avx512_vnni", "avx_vnni")][:1]
    if trial.hint == "bf16":
        needed += [name for name in isa if name in ("amx_bf16", "avx512_bf16")][:1]
    return tuple(needed)


def _fallback(contents: Contents) -> str:
    """The engine that runs anywhere: the rewritten graph in the source's precision, or the source if that is worse."""
    plain = next((one for one in contents.searched.tried if one.trial == Trial()), None)
    return plain.record.name if plain is not None and plain.is_accepted else SOURCE


def _trial(contents: Contents, name: str) -> Trial:
    tried = contents.tried(name)
    return tried.trial if tried else Trial()


def _artifact(contents: Contents, name: str) -> Artifact:
    tried = contents.tried(name)
    return contents.runner.artifact(tried) if tried else contents.source


def _score(contents: Contents, steps: Steps) -> TestScore | None:
    """Nothing has read the test split so far."""
    plan = contents.plan
    with steps.step("test") as step:
        test = None
        if plan.data is not None and plan.metric is not None:
            engine = contents.finalists.engines[contents.choice.chosen]
            batches = plan.data.batches("test", _TEST_ROWS)
            test = score_test(contents.runner.bench.source, engine, batches, plan.metric)
        step.note = f"{test.rows} rows, scored once" if test else "no test rows"
    return test


def _evidence(contents: Contents, finished: _Finished, version: int) -> Evidence:
    plan, choice = contents.plan, contents.choice
    chosen = contents.tried(choice.chosen)
    return make_evidence(
        plan,
        version,
        passes=contents.passes,
        candidates=choice.candidates,
        chosen=choice.chosen,
        reason=choice.reason,
        engines=finished.engines,
        golden=finished.golden,
        test=finished.test,
        layers=layer_records(contents.rewritten, chosen, _facts(contents, chosen)) if chosen else (),
        repairs=contents.searched.repairs,
        calibration=calibration_record(plan, chosen) if chosen else None,
        worst=chosen.worst if chosen else None,
        data_sha256=plan.data.fingerprint() if plan.data else None,
    )


def _facts(contents: Contents, chosen: Tried) -> tuple[LayerFacts, ...]:
    return contents.searched.facts.get(family(chosen.trial), ())
