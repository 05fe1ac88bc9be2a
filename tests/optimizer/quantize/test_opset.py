from pathlib import Path

import numpy as np
from onnx import helper

from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.quantize.int8 import QuantizationPlan, plan_int8
from optimizer.quantize.opset import with_opset, with_quantizable_opset


def old(graph: Graph, opset: int) -> Graph:
    model = graph.copy()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    return Graph(model)


def test_a_new_graph_is_taken_as_it_is(small_graph: Graph) -> None:
    assert with_quantizable_opset(small_graph) is small_graph


def test_an_old_graph_is_converted_and_answers_as_before(small_graph: Graph, tmp_path: Path) -> None:
    graph = old(small_graph, 9)
    found = with_quantizable_opset(graph)
    assert isinstance(found, Graph)
    assert found.opset == 13
    assert isinstance(plan_int8(found), QuantizationPlan)
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    answers = []
    for number, each in enumerate((graph, found)):
        each.save(tmp_path / f"{number}.onnx")
        answers.append(OnnxRuntimeEngine(tmp_path / f"{number}.onnx").run(feeds)["scores"])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)


def test_any_opset_can_be_asked_for(small_graph: Graph) -> None:
    assert with_opset(small_graph, 20) is small_graph
    found = with_opset(small_graph, 21)
    assert isinstance(found, Graph)
    assert found.opset == 21


def test_what_cannot_be_converted_is_declined_with_the_reason(small_graph: Graph) -> None:
    model = old(small_graph, 9).copy()
    model.graph.node[2].op_type = "NoSuchOperator"
    found = with_quantizable_opset(Graph(model))
    assert isinstance(found, Declined)
    assert found.reason.startswith("opset 9 is too old and cannot be converted to 13: ")
