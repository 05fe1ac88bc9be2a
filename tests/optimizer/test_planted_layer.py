"""A layer that eight bits ruin is found, kept in float, and named in the evidence and the report."""

import io
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from tests.conftest import DIGITS

RUINED = "node_linear"
HUGE = 1e6


def planted_model(path: Path) -> Path:
    """The digits MLP with huge weights on the first pixel, which is 0 in every scan.

    In float nothing changes. In eight bits the steps of that layer's weights are as wide as all it knows; and what
    comes from outside the graph cannot be scaled by the layer before.
    """
    model = onnx.load(DIGITS / "digits_mlp.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "1.weight")
    array = numpy_helper.to_array(weight).copy()
    array[:, 0] = HUGE
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("planted")
    recipe = recipe_from_options(
        model=planted_model(folder / "planted.onnx"),
        name="planted",
        repository=folder / "repository",
        data=str(DIGITS / "digits.npz"),
        engine="onnxruntime",
        precision="int8",
        objective="size",
        benchmark_seconds=0.01,
    )
    return build(recipe, Steps(Console(file=io.StringIO())))


def test_int8_on_all_layers_is_ruined(published: Published) -> None:
    whole = next(record for record in published.evidence.candidates if record.name == "int8")
    assert whole.verdict == "rejected"
    assert whole.metric is not None
    assert whole.metric.drop > 0.05


def test_the_repair_ladder_was_climbed_first_and_each_rung_is_recorded(published: Published) -> None:
    rungs = [record.name for record in published.evidence.repairs]
    assert rungs == [
        "per_tensor calibrators", "equalization", "smooth_quant", "bias_correction", "adaptive_rounding",
    ]  # fmt: skip


def test_the_planted_layer_alone_is_kept_in_float(published: Published) -> None:
    precisions = {layer.name: layer.precision for layer in published.evidence.layers}
    assert precisions == {RUINED: "fp32", "node_linear_1": "int8", "node_linear_2": "int8"}


def test_it_is_named_with_the_reason_in_the_evidence_and_in_the_report(published: Published) -> None:
    layer = next(layer for layer in published.evidence.layers if layer.name == RUINED)
    assert layer.reason.startswith("kept in fp32 by the search: lowered alone it changes the outputs by")
    most = max(published.evidence.layers, key=lambda one: one.sensitivity or 0.0)
    assert most is layer
    assert layer.reason in (published.directory / "report.html").read_text()


def test_what_is_published_is_inside_the_tolerance(published: Published) -> None:
    chosen = next(record for record in published.evidence.candidates if record.verdict == "chosen")
    assert chosen.precision == "int8"
    assert chosen.metric is not None
    assert chosen.metric.drop <= 0.01
