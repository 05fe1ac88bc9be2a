"""Lay out a version's files, score the test split once, write the evidence and the report, and publish."""

from dataclasses import dataclass
from pathlib import Path

from enginehouse.evidence import EngineRecord, Evidence, Golden, TestScore
from enginehouse.repository import digest
from optimizer.data.samples import sample_feeds
from optimizer.evaluate.final_score import score_test
from optimizer.layer_records import calibration_record, layer_records
from optimizer.publish.engines import lay_out
from optimizer.publish.golden import GOLDEN_ROWS
from optimizer.publish.publish import publish
from optimizer.replay import Replay
from optimizer.report.html import REPORT_FILE, write_report
from optimizer.report.steps import Steps
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.search import family
from optimizer.search.tried import Tried
from optimizer.version_engines import Contents, opened_engines
from optimizer.version_record import make_evidence

_TEST_ROWS = 32


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
    digests = {path.name: digest(path) for path in sorted(files.iterdir())}
    if replay is not None:
        replay.check_files(digests)
    with steps.step("publish") as step:

        def explained(version: int) -> Evidence:
            evidence = _evidence(contents, finished, version)
            write_report(evidence.model_copy(update={"files": digests}), files / REPORT_FILE)
            return evidence

        evidence = publish(plan.recipe.repository, plan.config, files, workdir, explained)
        step.note = str(plan.recipe.repository / plan.recipe.name / str(evidence.version))
    return evidence


def _engines(contents: Contents, files: Path) -> tuple[tuple[EngineRecord, ...], Golden]:
    plan = contents.plan
    is_synthetic = plan.data is None or plan.is_random or plan.recipe.golden == "synthetic"
    rows = min(GOLDEN_ROWS, max(1, plan.config.max_batch_size))
    feeds = sample_feeds(plan.graph, None if is_synthetic else plan.data, rows, plan.recipe.seed)
    measured = {one.record.name: one.output_difference for one in contents.searched.tried}
    with opened_engines(contents, files.parent) as engines:
        return lay_out(files, engines, contents.runner.bench.source, feeds, measured, synthetic=is_synthetic)


def _score(contents: Contents, steps: Steps) -> TestScore | None:
    """Nothing has been chosen by the test split."""
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
        calibration=calibration_record(plan, chosen),
        worst=chosen.worst if chosen else None,
        data_sha256=plan.data.fingerprint() if plan.data else None,
    )


def _facts(contents: Contents, chosen: Tried) -> tuple[LayerFacts, ...]:
    return contents.searched.facts.get(family(chosen.trial), ())
