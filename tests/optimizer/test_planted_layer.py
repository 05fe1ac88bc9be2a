"""A layer that eight bits ruin is found, kept in float, and named in the evidence and the report."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from enginehouse.dtype import Array
from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from tests.conftest import DIGITS

RUINED = "node_linear_1"
HUGE = 20.0


def planted_model(path: Path) -> Path:
    """The digits MLP with every hidden unit twice, of which the next layer adds a huge share once and takes it off once.

        W h  =  (W / 2 + H) h + (W / 2 - H) h

    In float nothing changes. In eight bits the steps of that layer's weights are as wide as what it knows, and because
    every unit has huge weights, no scale between the layers helps.
    """
    model = onnx.load(DIGITS / "digits_mlp.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    for name in ("1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var"):
        put(tensors[name], np.concatenate([arrays[name], arrays[name]]))
    half = arrays["5.weight"] / 2
    huge = HUGE * np.random.default_rng(0).choice([-1, 1], half.shape).astype(np.float32)
    put(tensors["5.weight"], np.concatenate([half + huge, half - huge], axis=1))
    del model.graph.value_info[:]
    onnx.save(model, path)
    return path


def put(tensor: onnx.TensorProto, array: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


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
    assert precisions == {"node_linear": "int8", RUINED: "fp32", "node_linear_2": "int8"}


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
