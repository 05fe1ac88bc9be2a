"""From a recipe to a published version: the one place where the steps meet.

import -> rewrite -> search (make, verify and measure trials) -> benchmark the finalists -> choose -> score the test
split -> publish
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from enginehouse.evidence import CandidateRecord, Evidence, PassRecord
from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import CPU_PROVIDER, CUDA_PROVIDER
from enginehouse.tensor import Tensors
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.data.feeds import Batch
from optimizer.data.lint import lint
from optimizer.data.samples import calibration_split, sample_feeds
from optimizer.data.synthetic import synthetic_feeds
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.verify import Judge
from optimizer.finalists import Finalists, measure_finalists, pick_finalists, with_measurements
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.graph.precision import precision_of
from optimizer.make import CalibrationRows, Workshop
from optimizer.plan import Plan, plan_build
from optimizer.publish.staging import check_writable, staging
from optimizer.recipe import Recipe
from optimizer.replay import Replay, replayed
from optimizer.report.steps import Steps
from optimizer.rewrite import rewrite
from optimizer.search.budget import budget_of
from optimizer.search.choose import Choice, Rule, accepted_candidates, choose
from optimizer.search.search import Searched, search, value_of
from optimizer.search.trial_cache import TrialCache
from optimizer.search.trial_runner import MODEL_FILE, Bench, TrialRunner
from optimizer.search.tried import SOURCE
from optimizer.trial_context import trial_context
from optimizer.version_engines import Contents
from optimizer.version_files import publish_version

_VERIFY_ROWS = 32
_REWRITE_ROWS = (8, 1)
_SAMPLE_ROWS, _SAMPLE_BATCH = 64, 8


@dataclass(frozen=True, slots=True)
class Published:
    """What a build left in the repository."""

    evidence: Evidence
    directory: Path


@dataclass(frozen=True, slots=True)
class _Rewritten:
    graph: Graph
    passes: tuple[PassRecord, ...]


def build(recipe: Recipe, steps: Steps, replay: Replay | None = None) -> Published:
    """Run every step; the repository is as it was unless this returns.

    Args:
        recipe: what is asked for.
        steps: where progress is shown.
        replay: the engines of an earlier build, to be made again in place of a search.

    Raises:
        Error: a leaf of the tree that says which step refused, and why.
    """
    check_writable(recipe.repository)
    with staging(recipe.repository) as workdir, ExitStack() as stack:
        plan = _plan(recipe, workdir, steps)
        if replay is not None:
            replay.check_inputs(plan)
        rewritten = _rewrite(plan, steps)
        source = _save_source(plan, workdir)
        runner = _runner(plan, rewritten.graph, source, workdir, steps)
        stack.callback(runner.bench.source.close)
        searched = _search(plan, runner, replay, steps)
        records = [_source_record(plan, source.path), *(one.record for one in searched.tried)]
        accepted_candidates(records)
        finalists = _benchmark(plan, runner, source, searched, stack, steps)
        choice = _choose(plan, records, finalists, replay)
        contents = Contents(plan, rewritten.graph, rewritten.passes, searched, choice, finalists, runner, source)
        evidence = publish_version(contents, workdir, steps, replay)
    return Published(evidence, recipe.repository / recipe.name / str(evidence.version))


def _plan(recipe: Recipe, workdir: Path, steps: Steps) -> Plan:
    with steps.step("import") as step:
        plan = plan_build(recipe, workdir, is_dry_run=False)
        step.note = f"{recipe.model}: {plan.graph.node_count} nodes, opset {plan.graph.opset}"
    if plan.data is not None:
        with steps.step("data") as step:
            step.note = f"made up, because there is none: {plan.data}" if plan.is_random else str(plan.data)
            plan = replace(plan, warnings=_lint(plan))
        for warning in plan.warnings:
            steps.warn(warning)
    return plan


def _lint(plan: Plan) -> tuple[str, ...]:
    """What the rows look like; made-up rows need no lint to be mistrusted."""
    if plan.data is None or plan.is_random:
        return ()
    output = plan.graph.outputs[0]
    classes = output.shape[1] if plan.metric and plan.metric.name == "top1" and len(output.shape) == 2 else None
    return lint(plan.data, calibration_split(plan.data) or "validation", classes if classes and classes > 1 else None)


def _rewrite(plan: Plan, steps: Steps) -> _Rewritten:
    with steps.step("rewrite") as step:
        feeds = [sample_feeds(plan.graph, plan.data, rows, plan.recipe.seed) for rows in _REWRITE_ROWS]
        graph, passes = rewrite(plan.graph, feeds, lambda _, done, total: step.advance(done, total))
        dropped = [record.name for record in passes if record.outcome == "dropped"]
        step.note = f"{plan.graph.node_count} nodes became {graph.node_count}" + (
            f"; dropped: {', '.join(dropped)}" if dropped else ""
        )
    return _Rewritten(named_graph(graph), passes)


def _save_source(plan: Plan, workdir: Path) -> Artifact:
    path = workdir / SOURCE / MODEL_FILE
    path.parent.mkdir()
    plan.graph.save(path)
    return Artifact(path, "onnxruntime", "f32", _provider(plan))


def _provider(plan: Plan) -> str:
    """ONNX Runtime runs on the GPU where one is the target and is here."""
    return CUDA_PROVIDER if plan.recipe.machine.is_gpu and plan.recipe.is_timed else CPU_PROVIDER


def _runner(plan: Plan, rewritten: Graph, source: Artifact, workdir: Path, steps: Steps) -> TrialRunner:
    recipe = plan.recipe
    cache = TrialCache(recipe.cache or Path(tempfile.mkdtemp(dir=workdir)))
    feeds = {size: sample_feeds(plan.graph, plan.data, size, recipe.seed) for size in plan.quick_sizes}
    threads = threads_per_instance(1)
    engine = open_artifact(source, threads)
    with steps.step("reference") as step:
        reference = Reference(engine, lambda: _judged_batches(plan), _judge(plan), workdir)
        step.note = f"the original answered {reference.rows} rows"
    machine = recipe.machine
    may_saturate = not (machine.has_vnni or machine.is_arm or machine.is_gpu)
    bench = Bench(engine, feeds, threads, source.provider, recipe.is_timed, may_saturate, recipe.seed)
    workshop = Workshop(rewritten, _calibration_rows(plan), workdir, cache.states)
    return TrialRunner(workshop, reference, bench, cache, trial_context(plan, rewritten), precision_of(rewritten))


def _judge(plan: Plan) -> Judge:
    is_batched = plan.config.max_batch_size > 1
    return Judge(plan.metric, plan.recipe.tolerance, is_batched, plan.recipe.seed, plan.recipe.allow_batch_variance)


def _judged_batches(plan: Plan) -> Iterator[Batch]:
    """The validation split, or a few synthetic rows where there is no data."""
    if plan.data is not None:
        return plan.data.batches("validation", _VERIFY_ROWS)
    feeds = synthetic_feeds(plan.graph.inputs, _VERIFY_ROWS, plan.graph.batch_axis_open, plan.recipe.seed)
    return iter([Batch(feeds, None, 1)])


def _calibration_rows(plan: Plan) -> CalibrationRows | None:
    split = calibration_split(plan.data) if plan.data is not None else None
    if plan.data is None or split is None:
        return None
    data = plan.data

    def read() -> Iterator[Tensors]:
        return (batch.feeds for batch in data.batches(split, _VERIFY_ROWS))

    samples, rows = [], 0
    for batch in data.batches(split, _SAMPLE_BATCH):
        samples.append(batch.feeds)
        rows += batch.rows
        if rows >= _SAMPLE_ROWS:
            break
    return CalibrationRows(read, data.rows[split], samples, data.is_whole)


def _search(plan: Plan, runner: TrialRunner, replay: Replay | None, steps: Steps) -> Searched:
    with steps.step("search") as step:
        runner.on_trial = step.tell
        if replay is not None:
            searched = replayed(runner, replay)
        else:
            budget = budget_of(plan.recipe.budget_seconds)
            searched = search(runner, plan.recipe, plan.config.max_batch_size > 1, budget)
        step.note = _search_note(plan, searched, runner)
    return searched


def _search_note(plan: Plan, searched: Searched, runner: TrialRunner) -> str:
    counts = {verdict: sum(one.record.verdict == verdict for one in searched.tried) for verdict in _VERDICTS}
    words = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    note = f"{len(searched.tried)} trials: {', '.join(words)}"
    if runner.cache_hits:
        note += f"; {runner.cache_hits} from the cache"
    return note if searched.is_complete else f"{note}; ended by the budget of {plan.recipe.budget}"


_VERDICTS = ("accepted", "rejected", "failed", "declined")


def _benchmark(
    plan: Plan, runner: TrialRunner, source: Artifact, searched: Searched, stack: ExitStack, steps: Steps
) -> Finalists:
    picked = pick_finalists(searched.tried, value_of(plan.recipe))
    feeds = {size: sample_feeds(plan.graph, plan.data, size, plan.recipe.seed) for size in plan.batch_sizes}
    with steps.step("benchmark") as step:
        found = measure_finalists(plan, runner, source, picked, feeds, stack, step.advance)
        sizes = " ".join(map(str, plan.batch_sizes))
        rounds = f"{found.measured.rounds} rounds" if found.measured else "not measured: another machine is the target"
        step.note = f"{len(picked)} finalists, {rounds}, {runner.bench.threads} threads, batch {sizes}"
    return found


def _choose(plan: Plan, records: Sequence[CandidateRecord], finalists: Finalists, replay: Replay | None) -> Choice:
    recipe = plan.recipe
    batches = (recipe.serving_batch,) if recipe.serving_batch else ()
    measured = with_measurements(records, finalists, recipe.objective, batches)
    if replay is not None:
        return replay.choice(measured)
    rule = Rule(recipe.objective, recipe.precision, recipe.engine, recipe.is_timed, recipe.serving_batch)
    return choose(measured, rule)


def _source_record(plan: Plan, path: Path) -> CandidateRecord:
    return CandidateRecord(
        name=SOURCE,
        precision=precision_of(plan.graph),
        stage=SOURCE,
        size_bytes=sum(file.stat().st_size for file in path.parent.iterdir()),
        verdict="accepted",
        reason="the original",
    )
