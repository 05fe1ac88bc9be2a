import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph
from optimizer.importers.normal_form import normal_form


def _graph(interface: str, body: str = "{ y = Add(x, W) }") -> Graph:
    model = onnx.parser.parse_model(f'<ir_version: 3, opset_import: ["" : 8]> g {interface} {body}')
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "W"))
    return Graph(model)


def test_weights_leave_the_list_of_inputs() -> None:
    model = normal_form(_graph("(float[N,3] x, float[3] W) => (float[N,3] y)")).model
    assert [value.name for value in model.graph.input] == ["x"]
    assert model.ir_version == 4
    onnx.checker.check_model(model, full_check=True)


def test_outputs_get_the_shape_that_can_be_inferred() -> None:
    graph = _graph("(float[N,3] x, float[3] W) => (float[A,B] y)")
    assert graph.outputs[0].shape == (-1, -1)
    assert normal_form(graph).outputs[0].shape == (-1, 3)


def test_contradiction_is_raised() -> None:
    with pytest.raises(onnx.shape_inference.InferenceError):
        normal_form(_graph("(float[N,3] x, float[3] W) => (float[N,4] y)"))


def test_default_that_inference_forgets_is_written_out_and_changes_nothing() -> None:
    text = "g (float[N,3,2,2] x) => (float[N,3,2,2] y) { y = MeanVarianceNormalization(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["" : 13]> {text}')
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(model, full_check=True)
    normal = normal_form(Graph(model))
    onnx.checker.check_model(normal.model, full_check=True)
    feeds = [{"x": np.random.default_rng(0).standard_normal((2, 3, 2, 2), dtype=np.float32)}]
    expected, found = (next(run_graph(graph, feeds, optimize=False))["y"] for graph in (Graph(model), normal))
    np.testing.assert_array_equal(found, expected)
