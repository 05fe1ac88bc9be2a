from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.recipe import Recipe, recipe_from_options
from optimizer.search import whole_model
from optimizer.search.whole_model import engines_to_try, whole_model_trials
from optimizer.trial import Trial


def recipe(**options: Any) -> Recipe:
    return recipe_from_options(model=Path("m.onnx"), name="m", repository=Path("r"), **options)


def trials(graph: Graph, is_batched: bool = True, **options: Any) -> tuple[Trial, ...]:
    return whole_model_trials(named_graph(graph), recipe(**options), is_batched)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_model, "find_spec", lambda name: None if name == "openvino" else find_spec(name))


def test_every_precision_of_every_installed_engine_is_tried(small_graph: Graph) -> None:
    found = {(trial.engine, trial.precision) for trial in trials(small_graph, target="vnni")}
    for engine in ("onnxruntime", "openvino"):
        assert {(engine, precision) for precision in ("fp32", "int8", "int4")} <= found


def test_half_precisions_are_tried_where_there_are_kernels_for_them(small_graph: Graph) -> None:
    def halves(target: str) -> set[tuple[str, str]]:
        found = trials(small_graph, target=target)
        return {(trial.engine, trial.precision) for trial in found if trial.precision in ("fp16", "bf16")}

    assert halves("vnni") == set()
    assert halves("amx") == {("openvino", "bf16")}
    assert halves("arm64") == {("onnxruntime", "fp16")}
    assert halves("sm_89") == {("onnxruntime", "fp16"), ("onnxruntime", "bf16")}


def test_a_half_precision_that_is_asked_for_is_tried_everywhere(small_graph: Graph) -> None:
    found = {(trial.engine, trial.precision) for trial in trials(small_graph, target="vnni", precision="fp16")}
    assert {("onnxruntime", "fp16"), ("openvino", "fp16")} <= found


@pytest.mark.usefixtures("without_openvino")
def test_an_engine_that_is_not_installed_is_not_tried(small_graph: Graph) -> None:
    assert {trial.engine for trial in trials(small_graph)} == {"onnxruntime"}


def test_the_rewritten_graph_comes_first_whatever_is_asked_for(small_graph: Graph) -> None:
    assert trials(small_graph)[0] == Trial()
    assert trials(small_graph, precision="int8", engine="openvino")[0] == Trial()


def test_no_trial_is_listed_twice(small_graph: Graph) -> None:
    found = [trial.model_dump_json() for trial in trials(small_graph, precision="fp32")]
    assert len(found) == len(set(found))


def test_a_precision_that_is_asked_for_is_the_only_other_one(small_graph: Graph) -> None:
    found = {trial.precision for trial in trials(small_graph, precision="bf16")}
    assert found == {"fp32", "bf16"}


def test_openvino_is_always_told_its_precision(small_graph: Graph) -> None:
    asked = [trials(small_graph, engine="openvino", precision=one, target="amx") for one in ("auto", "fp16")]
    hints = {(trial.precision, trial.hint) for some in asked for trial in some if trial != Trial()}
    assert {("fp32", "f32"), ("bf16", "bf16"), ("fp16", "f16"), ("int8", "f32"), ("int8", "bf16")} <= hints


@pytest.mark.parametrize(("target", "schemes"), [("vnni", ["u8s8"]), ("avx2", ["u8s7", "u8s8"])])
def test_integers_are_arranged_for_the_target(small_graph: Graph, target: str, schemes: list[str]) -> None:
    """Without VNNI seven-bit weights come first, and eight-bit ones are for the simulation to judge."""
    found = trials(small_graph, target=target, engine="onnxruntime")
    assert [trial.scheme for trial in found if trial.precision == "int8"] == schemes


def test_tensorrt_is_only_tried_when_it_is_asked_for(small_graph: Graph) -> None:
    assert engines_to_try(recipe(target="sm_89")) == ("onnxruntime",)
    found = trials(small_graph, target="sm_89", engine="tensorrt-rtx", precision="int8")
    assert [(trial.engine, trial.scheme) for trial in found] == [("onnxruntime", None), ("tensorrt-rtx", "s8s8")]


def convolution() -> Graph:
    """One Conv and nothing that could be quantized as it runs."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "h", "w"]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    return Graph(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_dynamic_int8_is_only_tried_where_no_stranger_shares_a_batch(small_graph: Graph) -> None:
    """Its scale spans the whole batch, so a row's answer would depend on its neighbours."""

    def has_dynamic(graph: Graph, **options: Any) -> bool:
        return any(trial.precision == "int8_dynamic" for trial in trials(graph, **options))

    assert not has_dynamic(small_graph)
    assert has_dynamic(small_graph, is_batched=False)
    assert has_dynamic(small_graph, allow_batch_variance=True)
    assert not has_dynamic(convolution(), is_batched=False)
