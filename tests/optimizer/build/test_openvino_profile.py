"""OpenVINO's own account of small graphs: what ran, in which precision, from which nodes."""

from pathlib import Path

import numpy as np
import pytest

from enginehouse.evidence import EngineLayer
from enginehouse.tensor import Tensors
from optimizer.build.openvino_profile import openvino_layers
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import named_graph
from optimizer.trial import Hint
from tests.conftest import DIGITS
from tests.optimizer.build.small_nets import images, perceptron, quantized_convolution, recurrent, residual, rows

openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")


def layers(graph: Graph, feeds: Tensors, folder: Path, hint: Hint = "f32") -> tuple[EngineLayer, ...]:
    path = folder / "model.onnx"
    graph.save(path)
    return openvino_layers(path, graph, feeds, 1, hint, runs=2)


def by_source(found: tuple[EngineLayer, ...]) -> dict[str, EngineLayer]:
    return {name: layer for layer in found for name in layer.source_nodes}


def capabilities() -> list[str]:
    found: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def test_float_layers_are_fp32_unless_the_hint_says_otherwise(tmp_path: Path) -> None:
    found = by_source(layers(perceptron(), rows(), tmp_path))
    assert {found[name].precision for name in ("first", "second")} == {"fp32"}
    assert found["first"].operator == "FullyConnected"


def test_a_hint_shows_in_the_layers_where_the_cpu_has_the_precision(tmp_path: Path) -> None:
    if "BF16" not in capabilities():
        pytest.skip("this CPU has no BF16 instructions")
    found = by_source(layers(residual(), images(), tmp_path, "bf16"))
    assert {found[name].precision for name in ("first", "second")} == {"bf16"}


def test_quantized_layers_are_int8_and_fused_nodes_stand_together(tmp_path: Path) -> None:
    assert by_source(layers(quantized_convolution(True), images(), tmp_path))["conv"].precision == "int8"
    found = by_source(layers(residual(), images(), tmp_path))
    assert found["first"] is found["relu"]


def test_a_recurrent_layer_keeps_its_name(tmp_path: Path) -> None:
    """OpenVINO calls it by a number, and gives the name to what it puts behind it."""
    found = by_source(layers(recurrent(), rows(), tmp_path))
    assert found["lstm"].operator in ("RNNSeq", "RNNCell")
    assert found["product"].operator == "FullyConnected"


def test_only_what_a_run_executes_is_listed_with_its_time(tmp_path: Path) -> None:
    """Weights are laid out once, as the model is compiled; a run does not pay for it."""
    found = layers(perceptron(), rows(), tmp_path)
    assert not {"Const", "Input", "Output"} & {layer.operator for layer in found}
    assert all(layer.time_ms is not None and 0 <= layer.time_ms < 1000 for layer in found)


@pytest.mark.parametrize("name", ["digits", "digits_mlp", "digits_lstm"])
def test_every_layer_of_a_real_model_is_found_once(tmp_path: Path, name: str) -> None:
    graph = named_graph(load_graph(DIGITS / f"{name}.onnx"))
    spec = graph.inputs[0]
    found = layers(graph, {spec.name: np.ones((2, *spec.shape[1:]), np.float32)}, tmp_path)
    sources = [node for layer in found for node in layer.source_nodes]
    assert len(sources) == len(set(sources))
    multiplying = {n.name for n in graph.model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul", "LSTM")}
    assert multiplying <= set(sources)
