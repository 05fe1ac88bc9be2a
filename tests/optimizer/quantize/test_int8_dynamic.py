from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.quantize.int8_dynamic import quantize_int8_dynamic
from optimizer.trial import Scheme
from tests.optimizer.quantize.graphs import (
    answers,
    chain,
    conv,
    fused_operators,
    gemms,
    graph_of,
    node,
    relative_error,
    rows,
    sequences,
    transformer,
    weight,
)


def dynamic(graph: Graph, scheme: Scheme = "u8s7") -> Graph:
    found = quantize_int8_dynamic(graph, [layer.name for layer in layers_of(graph)], scheme)
    assert isinstance(found, Graph), found
    return found


def lstm(direction: str = "forward", **attributes: Any) -> Graph:
    """Two numbers in, four of state, read both as a sequence and as its end."""
    count = 2 if direction == "bidirectional" else 1
    recurrent = helper.make_node(
        "LSTM", ["x", "w", "r", "b"], ["s", "h"], name="lstm", hidden_size=4, direction=direction, **attributes
    )
    nodes = [recurrent, node("ReduceSum", "h axes", "t", keepdims=0), node("MatMul", "t u", "y")]
    weights = {"w": weight(count, 16, 5), "r": weight(count, 16, 4), "b": weight(count, 32), "u": weight(4, 3)}
    return graph_of(nodes, weights | {"axes": np.array([0])}, ("s", "n", 5))


def steps() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(2).standard_normal((7, 3, 5)).astype(np.float32)}


@pytest.mark.parametrize("scheme", ["u8s7", "u8s8"])
def test_answers_stay_near(scheme: Scheme) -> None:
    for graph, feeds in ((transformer(), sequences()), (gemms(), rows()), (lstm(), steps())):
        error = relative_error(answers(dynamic(graph, scheme), feeds), answers(graph, feeds))
        assert 0 < error < 5e-3


def test_onnx_runtime_fuses_every_matrix_product(tmp_path: Path) -> None:
    counts = fused_operators(dynamic(transformer()), tmp_path)
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == 6
    assert not counts["MatMulInteger"]
    assert counts["DynamicQuantizeLinear"] == 1, (
        "the input of the three projections; the other layers have fused theirs"
    )


def test_layers_keep_their_names() -> None:
    for graph in (transformer(), gemms(), lstm()):
        kept = {each.name for each in dynamic(graph).model.graph.node}
        assert {layer.name for layer in layers_of(graph)} <= kept


def test_weights_of_seven_bits_are_the_default_because_they_never_saturate() -> None:
    found = {each.name: numpy_helper.to_array(each) for each in dynamic(gemms()).model.graph.initializer}
    assert max(np.abs(array).max() for array in found.values() if array.dtype == np.int8) == 64
    found = {each.name: numpy_helper.to_array(each) for each in dynamic(gemms(), "u8s8").model.graph.initializer}
    assert max(np.abs(array).max() for array in found.values() if array.dtype == np.int8) == 127


def test_scales_are_per_channel() -> None:
    weights = {each.name: each for each in dynamic(transformer()).model.graph.initializer}
    assert list(weights["wf/scale"].dims) == [64]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_an_lstm_runs_in_its_own_kernel_whatever_its_direction(direction: str, tmp_path: Path) -> None:
    graph = lstm(direction)
    found = dynamic(graph)
    assert fused_operators(found, tmp_path)["DynamicQuantizeLSTM"] == 1
    assert 0 < relative_error(answers(found, steps()), answers(graph, steps())) < 5e-3


def test_an_lstm_that_the_kernel_cannot_run_is_left_as_it_is() -> None:
    graph = lstm(input_forget=1)
    assert quantize_int8_dynamic(graph, ["lstm"]) == Declined(
        "no MatMul, Gemm or LSTM with FP32 weights to quantize dynamically"
    )


def test_only_the_layers_that_were_asked_for_are_quantized() -> None:
    found = quantize_int8_dynamic(gemms(), ["h_node"])
    assert isinstance(found, Graph)
    counts = found.op_counts()
    assert (counts["MatMulInteger"], counts["Gemm"], counts["MatMul"]) == (1, 3, 1)


def test_convolutions_are_never_quantized_dynamically() -> None:
    graph = chain()
    found = quantize_int8_dynamic(graph, [layer.name for layer in layers_of(graph)])
    assert isinstance(found, Declined)


def test_a_graph_with_both_keeps_its_convolutions() -> None:
    nodes = [conv("x w", "c"), node("Flatten", "c", "f"), node("Gemm", "f v", "y")]
    graph = graph_of(nodes, {"w": weight(2, 3, 3, 3), "v": weight(128, 4)}, ("n", 3, 8, 8))
    assert dynamic(graph).op_counts()["Conv"] == 1


def test_a_gemm_of_another_form_is_left_as_it_is() -> None:
    graph = graph_of([node("Gemm", "x w", "y", transA=1)], {"w": weight(8, 4)}, (8, 8))
    assert isinstance(quantize_int8_dynamic(graph, ["y_node"]), Declined)
    graph = graph_of([node("Gemm", "x w b", "y", beta=0.5)], {"w": weight(8, 4), "b": weight(4)}, ("n", 8))
    assert isinstance(quantize_int8_dynamic(graph, ["y_node"]), Declined)


def test_an_old_opset_is_declined() -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(8, 4)}, ("n", 8), opset=10)
    assert quantize_int8_dynamic(graph, ["y_node"]) == Declined(
        "opset 10 has no dynamic quantization; 11 or later is needed"
    )


def test_the_given_graph_stays_as_it_is() -> None:
    graph = lstm()
    before = graph.fingerprint()
    dynamic(graph)
    assert graph.fingerprint() == before
