"""From a recipe to a published version: the one place where the steps meet.

import -> rewrite -> candidates -> verify -> benchmark -> choose -> score the test split -> publish
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed
from enginehouse.evidence import Evidence, PassRecord
from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from optimizer.candidates import SOURCE, Candidate, int8_candidate, place, rewritten_candidate, source_candidate
from optimizer.data.feeds import Batch
from optimizer.data.samples import sample_feeds
from optimizer.data.synthetic import synthetic_feeds
from optimizer.evaluate.benchmark import Benchmark, Schedule, benchmark
from optimizer.evaluate.final_score import score_test
from optimizer.evaluate.verify import Judge, Verification, failed, verify
from optimizer.plan import Plan, plan_build
from optimizer.publish.golden import GOLDEN_ROWS, write_golden
from optimizer.publish.publish import publish
from optimizer.publish.staging import check_writable, staging
from optimizer.recipe import Recipe
from optimizer.report.steps import Step, Steps
from optimizer.rewrite import rewrite
from optimizer.search import Choice, accepted_candidates, choose
from optimizer.version_record import Finished, fallback_name, make_evidence, record_candidate

_VERIFY_ROWS = 32
_REWRITE_ROWS = (8, 1)


@dataclass(frozen=True, slots=True)
class Published:
    """What a build left in the repository."""

    evidence: Evidence
    directory: Path


def build(recipe: Recipe, steps: Steps) -> Published:
    """Run every step; the repository is as it was unless this returns.

    Raises:
        Error: a leaf of the tree that says which step refused, and why.
    """
    check_writable(recipe.repository)
    with staging(recipe.repository) as workdir, ExitStack() as stack:
        plan = _plan(recipe, workdir, steps)
        candidates, passes = _make_candidates(plan, workdir, steps)
        engines, failures = _open_engines(candidates, stack)
        verifications = {**_verify(plan, candidates, engines, steps), **failures}
        accepted_candidates([record_candidate(candidate, verifications) for candidate in candidates])
        measured = _benchmark(plan, engines, verifications, steps)
        choice = choose([record_candidate(candidate, verifications, measured) for candidate in candidates])
        finished = _finish(plan, choice, candidates, engines, verifications, workdir / "version", steps)
        return _publish(plan, choice, passes, finished, workdir, steps)


def _plan(recipe: Recipe, workdir: Path, steps: Steps) -> Plan:
    with steps.step("import") as step:
        plan = plan_build(recipe, workdir, is_dry_run=False)
        step.note = f"{recipe.model}: {plan.graph.node_count} nodes, opset {plan.graph.opset}"
    if plan.data is not None:
        with steps.step("data") as step:
            step.note = str(plan.data)
    return plan


def _make_candidates(plan: Plan, workdir: Path, steps: Steps) -> tuple[tuple[Candidate, ...], tuple[PassRecord, ...]]:
    with steps.step("rewrite") as step:
        feeds = [sample_feeds(plan.graph, plan.data, rows, plan.recipe.seed) for rows in _REWRITE_ROWS]
        rewritten, passes = rewrite(plan.graph, feeds, lambda _, done, total: step.advance(done, total))
        step.note = _rewrite_note(plan.graph.node_count, rewritten.node_count, passes)
    with steps.step("candidates") as step:
        candidates = (
            source_candidate(plan.graph, workdir),
            rewritten_candidate(rewritten, workdir),
            int8_candidate(rewritten, plan.data, workdir),
        )
        step.note = ", ".join(
            f"{candidate.name} declined ({candidate.declined})" if candidate.declined else candidate.name
            for candidate in candidates
        )
    return candidates, passes


def _rewrite_note(before: int, after: int, passes: tuple[PassRecord, ...]) -> str:
    dropped = [record.name for record in passes if record.outcome == "dropped"]
    return f"{before} nodes became {after}" + (f"; dropped: {', '.join(dropped)}" if dropped else "")


def _open_engines(
    candidates: tuple[Candidate, ...], stack: ExitStack
) -> tuple[dict[str, Engine], dict[str, Verification]]:
    """Open what can be opened; a candidate that cannot has failed, and only the source must."""
    engines: dict[str, Engine] = {}
    failures: dict[str, Verification] = {}
    for candidate in candidates:
        if candidate.path is None:
            continue
        try:
            engine = OnnxRuntimeEngine(candidate.path, threads_per_instance(1))
        except EngineFailed as problem:
            if candidate.name == SOURCE:
                raise
            failures[candidate.name] = failed(str(problem))
            continue
        stack.callback(engine.close)
        engines[candidate.name] = engine
    return engines, failures


def _verify(
    plan: Plan, candidates: tuple[Candidate, ...], engines: Mapping[str, Engine], steps: Steps
) -> dict[str, Verification]:
    judge = Judge(plan.metric, plan.recipe.tolerance, plan.config.max_batch_size > 1, plan.recipe.seed)
    precisions = {candidate.name: candidate.precision for candidate in candidates}
    contenders = {name: (engine, precisions[name]) for name, engine in engines.items() if name != SOURCE}
    with steps.step("verify") as step:
        verifications = verify(engines[SOURCE], contenders, _judged_batches(plan, step), judge)
        accepted = [name for name, found in verifications.items() if found.is_accepted]
        rule = f"inside the tolerance of {judge.tolerance}" if judge.metric else "equal to the source up to rounding"
        step.note = f"{rule}: {', '.join(accepted) or 'none'}"
    return verifications


def _judged_batches(plan: Plan, step: Step) -> Iterator[Batch]:
    """The validation split, or a few synthetic rows where there is no data."""
    if plan.data is None:
        yield Batch(
            synthetic_feeds(plan.graph.inputs, _VERIFY_ROWS, plan.graph.batch_axis_open, plan.recipe.seed), None, 1
        )
        return
    done = 0
    for batch in plan.data.batches("validation", _VERIFY_ROWS):
        yield batch
        done += batch.rows
        step.advance(done, plan.data.rows["validation"])


def _benchmark(
    plan: Plan, engines: Mapping[str, Engine], verifications: Mapping[str, Verification], steps: Steps
) -> Benchmark:
    """Measure what runs; a candidate that was rejected too, so that the price of the tolerance is known."""
    runners = {name: engine for name, engine in engines.items() if name == SOURCE or not verifications[name].has_failed}
    recipe = plan.recipe
    feeds = {size: sample_feeds(plan.graph, plan.data, size, recipe.seed) for size in plan.batch_sizes}
    with steps.step("benchmark") as step:
        measured = benchmark(
            runners, feeds, Schedule(plan.batch_sizes, recipe.benchmark_seconds, recipe.seed), step.advance
        )
        sizes = " ".join(map(str, plan.batch_sizes))
        step.note = f"{measured.rounds} rounds, {threads_per_instance(1)} threads, batch {sizes}"
    return measured


def _finish(
    plan: Plan,
    choice: Choice,
    candidates: tuple[Candidate, ...],
    engines: Mapping[str, Engine],
    verifications: Mapping[str, Verification],
    files: Path,
    steps: Steps,
) -> Finished:
    """Lay the version's files out and score the test split, which nothing has read so far."""
    by_name = {candidate.name: candidate for candidate in candidates}
    chosen, fallback = by_name[choice.chosen], by_name[fallback_name(choice)]
    files.mkdir()
    place(chosen, files / "model.onnx")
    place(fallback, files / "fallback.onnx")
    with steps.step("test") as step:
        test = None
        if plan.data is not None and plan.metric is not None:
            batches = plan.data.batches("test", _VERIFY_ROWS)
            test = score_test(engines[SOURCE], engines[chosen.name], batches, plan.metric)
        step.note = f"{test.rows} rows, scored once" if test else "no test rows"
    is_synthetic = plan.data is None or plan.recipe.golden == "synthetic"
    rows = min(GOLDEN_ROWS, max(1, plan.config.max_batch_size))
    feeds = sample_feeds(plan.graph, None if is_synthetic else plan.data, rows, plan.recipe.seed)
    measured = verifications[chosen.name].distance.largest if chosen.name in verifications else 0.0
    golden = write_golden(files, feeds, engines[SOURCE], engines[chosen.name], chosen.precision, measured, is_synthetic)
    return Finished(chosen, fallback, test, golden, files)


def _publish(
    plan: Plan, choice: Choice, passes: tuple[PassRecord, ...], finished: Finished, workdir: Path, steps: Steps
) -> Published:
    with steps.step("publish") as step:
        evidence = publish(
            plan.recipe.repository,
            plan.config,
            finished.files,
            workdir,
            lambda version: make_evidence(plan, choice, passes, finished, version),
        )
        directory = plan.recipe.repository / plan.recipe.name / str(evidence.version)
        step.note = str(directory)
    return Published(evidence, directory)
