from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.errors import Unsupported
from optimizer.graph.graph import Graph
from optimizer.importers.batch_axis import find_batch_axis, open_batch_axis, why_not_batched

NOTHING: Mapping[str, Array] = {}


def _graph(text: str, weights: Mapping[str, Array] = NOTHING) -> Graph:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return Graph(model)


def _leading(graph: Graph) -> list[str]:
    values = (*graph.model.graph.input, *graph.model.graph.output)
    return [value.type.tensor_type.shape.dim[0].dim_param for value in values]


def test_one_symbol_is_believed() -> None:
    graph = _graph("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert find_batch_axis(graph) is graph


@pytest.mark.parametrize("interface", ["(float[?,3] x) => (float[?,3] y)", "(float[A,3] x) => (float[B,3] y)"])
def test_rows_that_prove_independent_get_one_symbol(interface: str) -> None:
    graph = find_batch_axis(_graph(interface + " { y = Relu(x) }"))
    assert _leading(graph) == ["batch", "batch"]
    assert graph.batch_axis_open


@pytest.mark.parametrize(
    "body",
    [
        "{ m = ReduceMax<keepdims = 1>(x, axes) y = Sub(x, m) }",  # every row sees the others
        "{ y = Concat<axis = 0>(x, x) }",  # two rows for each
    ],
)
def test_rows_that_see_each_other_are_not_a_batch(body: str) -> None:
    graph = find_batch_axis(_graph(f"(float[?,3] x) => (float[?,3] y) {body}", {"axes": np.array([0], np.int64)}))
    assert not graph.batch_axis_open
    assert _leading(graph) == ["x_length", "y_length"]


def test_fixed_leading_dimension_is_left() -> None:
    graph = _graph("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    assert find_batch_axis(graph) is graph


def test_fixed_batch_is_opened_and_proven() -> None:
    graph = open_batch_axis(
        _graph("(float[1,3] x, float[1] k) => (float[1,3] y) { y = Mul(x, k) }".replace("float[1] k", "float[1,1] k"))
    )
    assert graph.batch_axis_open
    assert _leading(graph) == ["batch"] * 3
    assert why_not_batched(graph) is None


@pytest.mark.parametrize(
    ("rows", "target", "output"), [(1, [1, -1], "[1,6]"), (1, [1, 6], "[1,6]"), (2, [2, 3, 2], "[2,3,2]")]
)
def test_reshape_to_a_fixed_number_of_rows_is_opened(rows: int, target: list[int], output: str) -> None:
    text = f"(float[{rows},2,3] x) => (float{output} y) {{ y = Reshape(x, target) }}"
    graph = open_batch_axis(_graph(text, {"target": np.array(target, np.int64)}))
    assert graph.batch_axis_open
    assert graph.inputs[0].shape == (-1, 2, 3)


def test_model_whose_rows_see_each_other_is_not_opened() -> None:
    text = "(float[2,3] x) => (float[2,3] y) { m = ReduceMean<keepdims = 1>(x, axes) y = Sub(x, m) }"
    with pytest.raises(Unsupported, match="a row among others is not answered as it is alone"):
        open_batch_axis(_graph(text, {"axes": np.array([0], np.int64)}))


def test_model_that_fixes_its_batch_inside_is_not_opened() -> None:
    text = "(float[1,3] x) => (float[1,6] y) { y = Concat<axis = 1>(x, fixed) }"
    with pytest.raises(Unsupported, match="does not run with batch 3"):
        open_batch_axis(_graph(text, {"fixed": np.ones((1, 3), np.float32)}))


@pytest.mark.parametrize(
    "interface",
    ["(float[1,3] x, float[2,3] k) => (float[2,3] y)", "(float[1,3] x, float k) => (float[1,3] y)"],
)
def test_leading_dimensions_that_are_not_one_number_are_not_opened(interface: str) -> None:
    with pytest.raises(Unsupported, match="not all one number"):
        open_batch_axis(_graph(interface + " { y = Add(x, k) }"))


def test_open_batch_axis_is_left() -> None:
    graph = _graph("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert open_batch_axis(graph) is graph
