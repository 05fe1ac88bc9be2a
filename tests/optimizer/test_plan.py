from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from enginehouse.errors import AlreadyExists, InvalidInput, MissingExtra
from enginehouse.model_config import config_from_specs, text_from_config
from optimizer import plan as plan_module
from optimizer.graph.graph import Graph
from optimizer.plan import Plan, plan_build
from optimizer.recipe import recipe_from_options


@pytest.fixture
def options(small_model: Path, small_data: Path, tmp_path: Path) -> dict[str, Any]:
    return {"model": small_model, "name": "small", "repository": tmp_path / "repository", "data": str(small_data)}


def planned(options: dict[str, Any], tmp_path: Path, is_dry_run: bool = True, **changes: Any) -> Plan:
    workdir = tmp_path / "work"
    workdir.mkdir(exist_ok=True)
    return plan_build(recipe_from_options(**{**options, **changes}), workdir, is_dry_run)


def test_everything_is_found_out_and_nothing_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(options, tmp_path)
    assert plan.metric is not None
    assert plan.data is not None
    assert (plan.metric.name, plan.data.rows["validation"], plan.version) == ("top1", 60, 1)
    assert (plan.config.max_batch_size, plan.batch_sizes) == (32, (1, 2, 4, 8, 16, 32))
    assert plan.source.file == "small.onnx"
    assert not (tmp_path / "repository").exists()


def test_the_batch_size_limits_what_is_measured(options: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(options, tmp_path, max_batch_size=6)
    assert (plan.config.max_batch_size, plan.batch_sizes) == (6, (1, 2, 4))


def publish_config(repository: Path, graph: Graph, max_batch_size: int) -> None:
    config = config_from_specs("small", "onnxruntime_onnx", graph.inputs, graph.outputs, max_batch_size, {})
    (repository / "small" / "3").mkdir(parents=True)
    (repository / "small" / "config.pbtxt").write_text(text_from_config(config))


def test_what_is_published_is_taken_over(options: dict[str, Any], small_graph: Graph, tmp_path: Path) -> None:
    publish_config(tmp_path / "repository", small_graph, 8)
    plan = planned(options, tmp_path)
    assert (plan.config.max_batch_size, plan.version) == (8, 4)


def test_what_contradicts_it_is_refused(options: dict[str, Any], small_graph: Graph, tmp_path: Path) -> None:
    publish_config(tmp_path / "repository", small_graph, 8)
    with pytest.raises(AlreadyExists, match="max_batch_size"):
        planned(options, tmp_path, max_batch_size=16)


def test_a_metric_needs_its_labels(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="metric top1 needs labels, and no data was given"):
        planned(options, tmp_path, data=None, metric="top1")
    path = tmp_path / "unlabelled.npz"
    np.savez(path, **{"validation/x": np.zeros((3, 4), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"metric mse needs labels, and the data has no array"):
        planned(options, tmp_path, data=str(path), metric="mse")


def test_candidates_cannot_be_judged_without_validation_rows(
    options: dict[str, Any], small_arrays: dict[str, NDArray[np.generic]], tmp_path: Path
) -> None:
    path = tmp_path / "partial.npz"
    kept = {name: array for name, array in small_arrays.items() if not name.startswith("validation")}
    np.savez(path, **kept)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"no validation rows, only 70 rows: calibration 40, test 30"):
        planned(options, tmp_path, data=str(path))


def test_a_dry_run_does_not_call_a_row_function(options: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "rows.py"
    source.write_text(f"open({str(tmp_path / 'called')!r}, 'w')\ndef rows():\n    yield {{'x': [0.0] * 4}}\n")
    plan = planned(options, tmp_path, data=f"{source}:rows")
    assert plan.data is None
    assert not (tmp_path / "called").exists()


def fixed_batch(model: Path, tmp_path: Path) -> Path:
    loaded = onnx.load(model)
    for value in (*loaded.graph.input, *loaded.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(loaded, tmp_path / "fixed.onnx")
    return tmp_path / "fixed.onnx"


def test_a_model_without_open_batch_axis_is_not_batched(options: dict[str, Any], tmp_path: Path) -> None:
    fixed = fixed_batch(options["model"], tmp_path)
    plan = planned(options, tmp_path, model=fixed)
    assert (plan.config.max_batch_size, plan.batch_sizes) == (0, (1,))
    with pytest.raises(InvalidInput, match="has no open batch axis"):
        planned(options, tmp_path, model=fixed, max_batch_size=8)


def test_a_fixed_batch_axis_can_be_opened(options: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(options, tmp_path, model=fixed_batch(options["model"], tmp_path), batch_axis="open")
    assert plan.config.max_batch_size == 32


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"engine": "tensorrt-rtx"}, "--engine tensorrt-rtx builds plans for one kind of GPU, and --target is host"),
        ({"engine": "openvino", "target": "sm_89"}, "--engine openvino runs on the CPU, and --target is sm_89, a GPU"),
        (
            {"objective": "memory", "target": "avx2"},
            "--objective memory is .* does not run .* --target avx2",
        ),
        ({"precision": "int8", "data": None}, "give --data, or accept made-up rows with --random-calibration"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_the_model_is_read(
    options: dict[str, Any], tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidInput, match=problem):
        planned(options, tmp_path, **{"model": tmp_path / "absent.onnx", **changes})


@pytest.mark.parametrize(
    ("engine", "module", "target"),
    [("openvino", "openvino", "host"), ("tensorrt", "tensorrt", "sm_89"), ("tensorrt-rtx", "tensorrt_rtx", "sm_89")],
)
def test_an_engine_that_is_not_installed_is_refused_with_its_extra(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, module: str, target: str
) -> None:
    monkeypatch.setattr(plan_module, "find_spec", lambda name: None if name == module else find_spec(name))
    with pytest.raises(MissingExtra, match=rf"--engine {engine} needs .*enginehouse\[{engine}\]"):
        planned(options, tmp_path, engine=engine, target=target)


def test_what_was_asked_for_and_can_be_had_is_planned(options: dict[str, Any], tmp_path: Path) -> None:
    assert planned(options, tmp_path, objective="memory").data is not None
    assert planned(options, tmp_path, precision="int8", data=None, random_calibration=True).recipe.random_calibration
