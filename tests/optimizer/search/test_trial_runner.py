"""Trials of a small classifier, run for real: made, opened, read back, verified and measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from optimizer.data.feeds import Batch
from optimizer.evaluate.metrics import metric_from_name
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.tolerance import Tolerance
from optimizer.evaluate.verify import Judge
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.make import CalibrationRows, Workshop
from optimizer.search.trial_cache import TrialCache
from optimizer.search.trial_runner import Bench, TrialRunner
from optimizer.trial import Trial
from tests.optimizer.conftest import small_rows, small_scores

INT8 = Trial(precision="int8", scheme="u8s8")
SCHEMES = ("u8s8", "u8s7")


def judged() -> Iterator[Batch]:
    return iter([Batch({"x": small_rows(64, 7)}, small_scores(small_rows(64, 7)).argmax(axis=1), 64)])


@pytest.fixture
def source(small_model: Path) -> Iterator[OnnxRuntimeEngine]:
    engine = OnnxRuntimeEngine(small_model)
    yield engine
    engine.close()


@pytest.fixture
def cache(tmp_path: Path) -> TrialCache:
    return TrialCache(tmp_path / "cache")


def runner(
    graph: Graph, source: OnnxRuntimeEngine, cache: TrialCache, workdir: Path, max_drop: float = 0.1
) -> TrialRunner:
    feeds = tuple({"x": small_rows(16, seed)} for seed in range(4))
    metric = metric_from_name("top1", graph.outputs[0], has_labels=True)
    reference = Reference(source, judged, Judge(metric, Tolerance(max_drop, is_percent=False), True, 0), workdir)
    workshop = Workshop(named_graph(graph), CalibrationRows(lambda: feeds, 64, feeds), workdir, cache.states)
    bench = Bench(source, {1: {"x": small_rows(1, 0)}, 8: {"x": small_rows(8, 0)}}, 1, CPU_PROVIDER, True, False, 0)
    return TrialRunner(workshop, reference, bench, cache, {"data": "d"}, "fp32")


@pytest.fixture
def run(small_graph: Graph, source: OnnxRuntimeEngine, cache: TrialCache, tmp_path: Path) -> TrialRunner:
    return runner(small_graph, source, cache, tmp_path)


def test_a_trial_leaves_a_verdict_with_the_figures_it_rests_on(run: TrialRunner) -> None:
    tried = run.run(INT8, "recipe")
    record = tried.record
    assert (record.name, record.verdict, record.stage) == ("int8", "accepted", "recipe")
    assert record.metric is not None
    assert record.metric.rows == 64
    assert record.quick_speedup is not None
    assert record.quick_speedup > 0
    assert tried.proof is not None
    assert tried.proof.layer_share["int8"] == 1.0
    assert set(tried.ranges) >= {"x"}
    assert tried.calibration == (64, 64, False)
    assert run.artifact(tried).path.stat().st_size == record.size_bytes


def test_a_trial_outside_the_tolerance_is_rejected(
    small_graph: Graph, source: OnnxRuntimeEngine, cache: TrialCache, tmp_path: Path
) -> None:
    tried = runner(small_graph, source, cache, tmp_path, max_drop=-1.0).run(INT8, "recipe")
    assert tried.record.verdict == "rejected"
    assert "drops by" in tried.record.reason


def test_a_precision_that_the_engine_does_not_compute_in_has_failed(run: TrialRunner) -> None:
    """ONNX Runtime on this kind of CPU answers rightly, in FP32, and FP16 was asked for."""
    tried = run.run(Trial(precision="fp16"), "recipe")
    assert tried.record.verdict == "failed"
    assert "FP16" in tried.record.reason
    assert tried.record.metric is not None


def test_a_trial_that_cannot_be_opened_has_failed(run: TrialRunner) -> None:
    tried = run.run(Trial(precision="bf16"), "recipe")
    assert tried.record.verdict == "failed"
    assert tried.proof is None


def test_a_trial_that_does_not_apply_is_declined_and_has_no_file(run: TrialRunner) -> None:
    tried = run.run(INT8.model_copy(update={"layers": {"MatMul_0": "fp32", "Gemm_3": "fp32"}}), "layers")
    assert (tried.record.verdict, tried.file) == ("declined", "")


def test_the_same_trial_is_run_once(run: TrialRunner) -> None:
    assert run.run(INT8, "recipe") is run.run(INT8, "layers")
    assert len(run.tried) == 1


def test_another_build_finds_it_in_the_cache(
    run: TrialRunner, small_graph: Graph, source: OnnxRuntimeEngine, cache: TrialCache, tmp_path: Path
) -> None:
    first = run.run(INT8, "recipe")
    again = runner(small_graph, source, cache, tmp_path)
    told: list[str] = []
    again.on_trial = told.append
    assert again.run(INT8, "recipe") == first
    assert (again.cache_hits, told) == (1, ["int8"])
    assert again.artifact(first).path.is_file()


def test_a_build_of_something_else_does_not_find_it(
    run: TrialRunner, small_graph: Graph, source: OnnxRuntimeEngine, cache: TrialCache, tmp_path: Path
) -> None:
    run.run(INT8, "recipe")
    workshop, reference = run.workshop, run.reference
    other = TrialRunner(workshop, reference, run.bench, cache, {"data": "other"}, "fp32")
    other.run(INT8, "recipe")
    assert other.cache_hits == 0


def test_trials_that_read_alike_are_numbered(run: TrialRunner) -> None:
    names = [run.run(INT8.model_copy(update={"layers": {layer: "fp32"}}), "layers").record.name for layer in ("a", "b")]
    assert names == ["int8, 1 layer fp32", "int8, 1 layer fp32 #2"]


def test_the_graph_as_it_is_carries_the_precision_of_its_source(run: TrialRunner) -> None:
    half = TrialRunner(run.workshop, run.reference, run.bench, run._cache, {"data": "half"}, "fp16")
    record = half.run(Trial(), "recipe").record
    assert (record.name, record.precision) == ("fp16", "fp16")


def test_an_engine_can_be_opened_without_being_judged_or_kept(run: TrialRunner, cache: TrialCache) -> None:
    before = set(cache.root.iterdir())
    with run.opened(INT8) as engine:
        assert not isinstance(engine, Declined)
        assert engine.run({"x": small_rows(2, 0)})["scores"].shape == (2, 3)
    assert set(cache.root.iterdir()) == before
    assert run.tried == ()


def test_a_trial_that_is_interrupted_leaves_nothing(
    run: TrialRunner, cache: TrialCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reference, "verify", interrupt)
    before = {path.name for path in cache.root.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        run.run(INT8, "recipe")
    assert {path.name for path in cache.root.iterdir()} == before


def test_sums_that_the_target_would_clamp_are_simulated_and_refused(run: TrialRunner) -> None:
    """Without VNNI pairs of products are added in 16 bits; weights of seven bits always fit."""
    bench = replace(run.bench, may_saturate=True)
    other = TrialRunner(run.workshop, run.reference, bench, run._cache, {"data": "without VNNI"}, "fp32")
    eight, seven = (other.run(Trial.model_validate({"precision": "int8", "scheme": s}), "recipe") for s in SCHEMES)
    assert eight.record.verdict == "rejected"
    assert "of the sums of" in eight.record.reason
    assert "saturate (simulated)" in eight.record.reason
    assert seven.record.verdict == "accepted"
