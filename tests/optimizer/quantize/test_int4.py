from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from enginehouse.openvino_engine import OpenVinoEngine
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.quantize.int4 import Form, quantize_int4
from tests.optimizer.quantize.graphs import (
    answers,
    chain,
    conv,
    fused_operators,
    gemms,
    graph_of,
    images,
    node,
    quantized,
    relative_error,
    rows,
    sequences,
    transformer,
    weight,
)

FORMS: tuple[Form, ...] = ("matmul_nbits", "qdq")


def in_four_bits(graph: Graph, form: Form, block_size: int = 32) -> Graph:
    found = quantize_int4(graph, [layer.name for layer in layers_of(graph)], form, block_size)
    assert isinstance(found, Graph), found
    return found


@pytest.mark.parametrize("form", FORMS)
def test_answers_stay_near(form: Form) -> None:
    for graph, feeds in ((transformer(), sequences()), (gemms(), rows())):
        error = relative_error(answers(in_four_bits(graph, form), feeds), answers(graph, feeds))
        assert 1e-5 < error < 0.15


@pytest.mark.parametrize("form", FORMS)
def test_layers_keep_their_names(form: Form) -> None:
    for graph in (transformer(), gemms()):
        kept = {each.name for each in in_four_bits(graph, form).model.graph.node}
        assert {layer.name for layer in layers_of(graph)} <= kept


@pytest.mark.parametrize("form", FORMS)
def test_a_large_matrix_takes_about_an_eighth_of_its_size(form: Form) -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(512, 512)}, ("n", 512))
    assert in_four_bits(graph, form).size_bytes < graph.size_bytes / 6


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_its_neighbours(form: Form) -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(64, 16)}, ("n", 64))
    found = in_four_bits(graph, form)
    together = rows(64, 8)["x"]
    together[1:] *= 1000
    alone = answers(found, {"x": together[:1]})["y"]
    assert np.allclose(answers(found, {"x": together})["y"][:1], alone, rtol=1e-5, atol=1e-6)


def test_the_own_form_of_onnx_runtime_has_its_operator_for_every_layer(tmp_path: Path) -> None:
    assert fused_operators(in_four_bits(transformer(), "matmul_nbits"), tmp_path)["MatMulNBits"] == 6


def test_the_standard_form_is_symmetric_and_reads_four_bit_integers() -> None:
    found = in_four_bits(transformer(), "qdq")
    assert found.opset >= 21
    assert {entry.domain for entry in found.model.opset_import} <= {"", "ai.onnx"}
    pairs = [each for each in found.model.graph.node if each.op_type == "DequantizeLinear"]
    weights = {tensor.name: tensor for tensor in found.model.graph.initializer}
    assert len(pairs) == 6
    assert all(weights[each.input[0]].data_type == TensorProto.INT4 and len(each.input) == 2 for each in pairs)


def test_openvino_reads_the_standard_form(tmp_path: Path) -> None:
    graph, feeds = transformer(), sequences()
    found = in_four_bits(graph, "qdq")
    found.save(tmp_path / "q.onnx")
    engine = OpenVinoEngine(tmp_path / "q.onnx", threads=1)
    assert relative_error(engine.run(feeds), answers(found, feeds)) < 1e-6


def test_a_matrix_that_blocks_do_not_fill_has_one_block_for_each_column() -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(40, 16)}, ("n", 40))
    found = in_four_bits(graph, "qdq")
    assert relative_error(answers(found, rows(40)), answers(graph, rows(40))) < 0.05


def test_only_the_layers_that_were_asked_for_are_quantized() -> None:
    found = quantize_int4(gemms(), ["h_node"], "matmul_nbits")
    assert isinstance(found, Graph)
    assert (found.op_counts()["com.microsoft.MatMulNBits"], found.op_counts()["Gemm"]) == (1, 3)


def test_an_old_graph_is_raised_to_an_opset_with_four_bit_types() -> None:
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weight(64, 16)}, ("n", 64), opset=13)
    found = in_four_bits(graph, "qdq")
    assert found.opset == 21
    assert relative_error(answers(found, rows(64)), answers(graph, rows(64))) < 0.05


def test_an_old_graph_that_cannot_be_raised_is_declined() -> None:
    model = graph_of([node("MatMul", "x w", "y")], {"w": weight(64, 16)}, ("n", 64), opset=13).copy()
    model.graph.node[0].op_type = "NoSuchOperator"
    found = quantize_int4(Graph(model), [], "qdq")
    assert isinstance(found, Declined)
    assert "cannot be converted to 21" in found.reason


@pytest.mark.parametrize("form", FORMS)
def test_four_bit_layers_stand_beside_eight_bit_ones(form: Form) -> None:
    nodes = [conv("x w", "c"), node("Relu", "c", "r"), node("Flatten", "r", "f"), node("Gemm", "f v b", "y")]
    weights = {"w": weight(2, 3, 3, 3), "v": weight(128, 4), "b": weight(4)}
    graph = graph_of(nodes, weights, ("n", 3, 8, 8), opset=17)
    mixed = quantize_int4(quantized(graph, images(), layers=["c_node"]), ["y_node"], form)
    assert isinstance(mixed, Graph)
    assert 0 < relative_error(answers(mixed, images()), answers(graph, images())) < 0.05


def test_convolutions_are_declined() -> None:
    graph = chain()
    found = quantize_int4(graph, [layer.name for layer in layers_of(graph)], "matmul_nbits")
    assert found == Declined("no MatMul or Gemm with FP32 weights to quantize")


@pytest.mark.parametrize("block_size", [0, 8, 48])
def test_a_block_size_that_no_kernel_has_is_declined(block_size: int) -> None:
    found = quantize_int4(gemms(), ["h_node"], "matmul_nbits", block_size)
    assert found == Declined(f"block size {block_size} is not a power of two of at least 16")


@pytest.mark.parametrize("form", FORMS)
def test_the_given_graph_stays_as_it_is(form: Form) -> None:
    graph = gemms()
    before = graph.fingerprint()
    in_four_bits(graph, form)
    assert graph.fingerprint() == before
