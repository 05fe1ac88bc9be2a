import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from enginehouse.dtype import Array
from enginehouse.errors import AlreadyExists, VerifyFailed
from enginehouse.evidence import CandidateRecord, read_evidence
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.repository import Repository, check_digests
from optimizer import pipeline
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.make import Made, Workshop
from optimizer.pipeline import Published, build
from optimizer.quantize.calibration import CalibrationTable
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from optimizer.search.choose import Choice, Rule
from optimizer.trial import Trial


def built(**options: Any) -> Published:
    recipe = recipe_from_options(
        **{"name": "small", "benchmark_seconds": 0.005, "max_drop": "10%", "engine": "onnxruntime", **options}
    )
    return build(recipe, Steps(Console(file=io.StringIO())))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def candidate(published: Published, name: str) -> CandidateRecord:
    return next(record for record in published.evidence.candidates if record.name == name)


def replay(directory: Path, file: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """What an engine answers to the golden samples, and the samples."""
    with np.load(directory / "golden.npz", allow_pickle=False) as samples:
        arrays = {name: samples[name] for name in samples.files}
    feeds = {name.removeprefix("input/"): array for name, array in arrays.items() if name.startswith("input/")}
    return dict(OnnxRuntimeEngine(directory / file).run(feeds)), arrays


def test_a_version_is_published_with_everything_that_proves_it(
    small_model: Path, small_data: Path, repository: Path
) -> None:
    published = built(model=small_model, data=str(small_data), repository=repository)
    assert published.directory == repository / "small" / "1"
    names = {path.name for path in published.directory.iterdir()}
    assert names == {"model.onnx", "fallback.onnx", "golden.npz", "evidence.json", "report.html"}
    evidence = read_evidence(published.directory)
    assert evidence == published.evidence
    check_digests(published.directory, evidence)
    assert [record.name for record in evidence.candidates][:4] == ["source", "fp32", "int8", "int4"]
    assert evidence.test is not None
    assert (evidence.test.rows, evidence.test.source) == (30, 1.0)
    assert evidence.recipe["name"] == "small"
    assert [record.batch for record in candidate(published, "int8").latency] == [1, 2, 4, 8, 16, 32]
    assert candidate(published, "int8").batch_invariant


def test_the_golden_samples_hold_on_every_engine(small_model: Path, small_data: Path, repository: Path) -> None:
    published = built(model=small_model, data=str(small_data), repository=repository)
    for record in published.evidence.engines:
        outputs, arrays = replay(published.directory, record.file)
        original, own = record.tolerance.original["scores"], record.tolerance.built["scores"]
        np.testing.assert_allclose(outputs["scores"], arrays["original/scores"], original.rtol, original.atol)
        np.testing.assert_allclose(outputs["scores"], arrays[f"built/{record.file}/scores"], own.rtol, own.atol)
    golden = published.evidence.golden
    assert (golden.rows, golden.synthetic) == (16, False)


def test_synthetic_samples_ship_no_row_of_the_user(small_model: Path, small_data: Path, repository: Path) -> None:
    published = built(model=small_model, data=str(small_data), repository=repository, golden="synthetic")
    _, arrays = replay(published.directory, "model.onnx")
    with np.load(small_data) as data:
        rows = {tuple(row) for name in data.files if name.endswith("/x") for row in data[name].tolist()}
    assert not rows & {tuple(row) for row in arrays["input/x"].tolist()}
    assert published.evidence.golden.synthetic


def test_a_second_build_takes_the_next_number(small_model: Path, small_data: Path, repository: Path) -> None:
    for expected in (1, 2):
        assert built(model=small_model, data=str(small_data), repository=repository).evidence.version == expected
    assert Repository(repository).versions("small") == [1, 2]


def test_without_data_int8_is_declined_and_nothing_is_scored(small_model: Path, repository: Path) -> None:
    published = built(model=small_model, repository=repository)
    assert candidate(published, "int8").verdict == "declined"
    assert candidate(published, "int8").size_bytes is None
    assert candidate(published, "fp32").metric is None
    assert candidate(published, "fp32").max_abs_difference is not None
    assert published.evidence.test is None
    assert published.evidence.golden.synthetic


@pytest.mark.parametrize("with_data", [True, False])
def test_a_tolerance_that_nothing_meets_publishes_nothing(
    small_model: Path, small_data: Path, repository: Path, with_data: bool
) -> None:
    data = str(small_data) if with_data else None
    with pytest.raises(VerifyFailed, match="no candidate is inside the tolerance"):
        built(model=small_model, data=data, repository=repository, max_drop="-1%")
    assert Repository(repository).model_names() == []


def test_the_test_split_never_steers_the_choice(
    small_model: Path,
    small_arrays: dict[str, NDArray[np.generic]],
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[CandidateRecord]] = []

    def spy(records: list[CandidateRecord], rule: Rule) -> Choice:
        without_times = {"latency": (), "speedup": None, "quick_speedup": None, "reason": ""}
        seen.append([record.model_copy(update=without_times) for record in records if record.stage == "recipe"])
        return Choice("fp32", "fp32", "fixed", tuple(records))

    monkeypatch.setattr(pipeline, "choose", spy)
    clean, poisoned = dict(small_arrays), dict(small_arrays)
    poisoned["test/x"] = np.asarray(small_arrays["test/x"]) * 1e6
    poisoned["test/label"] = (np.asarray(small_arrays["test/label"]) + 1) % 3
    scores = []
    for name, arrays in (("clean", clean), ("poisoned", poisoned)):
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        published = built(model=small_model, data=str(tmp_path / f"{name}.npz"), repository=repository)
        assert published.evidence.test is not None
        scores.append(published.evidence.test.source)
    assert seen[0] == seen[1]
    assert scores[0] == 1.0
    assert scores[1] < 0.9, "the poison was read in the end"


def test_a_trial_that_cannot_be_opened_has_failed_and_the_others_go_on(
    small_model: Path, small_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Workshop.make

    def broken(workshop: Workshop, trial: Trial) -> Made | Declined:
        made = real(workshop, trial)
        if trial.precision != "int8" or isinstance(made, Declined):
            return made
        model = made.graph.copy()
        model.graph.node[0].op_type = "NoSuchOperator"
        return Made(Graph(model), {}, None, {})

    monkeypatch.setattr(Workshop, "make", broken)
    published = built(model=small_model, data=str(small_data), repository=repository)
    assert candidate(published, "int8").verdict == "failed"
    assert "cannot open model.onnx" in candidate(published, "int8").reason
    assert candidate(published, "fp32").verdict in ("accepted", "chosen")


def test_another_model_under_the_same_name_is_refused(
    small_model: Path, small_data: Path, repository: Path, tmp_path: Path
) -> None:
    built(model=small_model, data=str(small_data), repository=repository)
    other = onnx.load(small_model)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "logits"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(AlreadyExists, match=r"another configuration: output: .*scores.*logits"):
        built(model=tmp_path / "other.onnx", data=str(small_data), repository=repository)
    assert Repository(repository).versions("small") == [1]


def save_model(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], weights: Any) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_model_without_batch_axis_is_served_as_it_is(tmp_path: Path, repository: Path) -> None:
    weights = {"w": np.eye(3, dtype=np.float32)}
    model = save_model(
        tmp_path / "flat.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        weights,
    )
    np.savez(tmp_path / "flat.npz", x=np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    published = built(model=model, data=str(tmp_path / "flat.npz"), repository=repository)
    record = candidate(published, "int8")
    assert record.metric is not None
    assert (record.metric.name, record.metric.rows, record.batch_invariant) == ("agreement", 20, None)
    assert [point.batch for point in candidate(published, "fp32").latency] == [1]
    assert "max_batch_size" not in (repository / "small" / "config.pbtxt").read_text()
    _, arrays = replay(published.directory, "model.onnx")
    assert arrays["input/x"].shape == (3,)


def test_a_row_of_a_model_without_batch_axis_calibrates_as_one(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    real = Workshop.table

    def noted(workshop: Workshop, graph: Graph, every_tensor: bool, histograms: bool) -> CalibrationTable | Declined:
        table = real(workshop, graph, every_tensor, histograms)
        assert isinstance(table, CalibrationTable)
        read.append((table.rows, table.rows_available))
        return table

    monkeypatch.setattr(Workshop, "table", noted)
    weights = {"w": np.eye(3, dtype=np.float32)}
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = save_model(tmp_path / "flat.onnx", nodes, [shape], [answer], weights)
    np.savez(tmp_path / "flat.npz", x=np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    built(model=model, data=str(tmp_path / "flat.npz"), repository=repository)
    assert set(read) == {(10, 10)}


def test_several_inputs_with_text_among_them_are_served_unquantized(tmp_path: Path, repository: Path) -> None:
    shape = ("batch", 2)
    model = save_model(
        tmp_path / "text.onnx",
        [helper.make_node("Identity", ["t"], ["same"]), helper.make_node("Add", ["a", "b"], ["sum"])],
        [
            helper.make_tensor_value_info("t", TensorProto.STRING, shape),
            helper.make_tensor_value_info("a", TensorProto.INT64, shape),
            helper.make_tensor_value_info("b", TensorProto.INT64, shape),
        ],
        [
            helper.make_tensor_value_info("same", TensorProto.STRING, shape),
            helper.make_tensor_value_info("sum", TensorProto.INT64, shape),
        ],
        {},
    )
    text = np.array([["a", "bcd"], ["ä", ""]] * 20)
    numbers = np.arange(80).reshape(40, 2)
    np.savez(tmp_path / "text.npz", t=text, a=numbers, b=numbers)
    published = built(model=model, data=str(tmp_path / "text.npz"), repository=repository)
    assert candidate(published, "int8").verdict == "declined"
    outputs, arrays = replay(published.directory, "model.onnx")
    assert outputs["same"].tolist() == arrays["original/same"].tolist()
    np.testing.assert_array_equal(outputs["sum"], arrays["built/model.onnx/sum"])
