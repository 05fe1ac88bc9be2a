import numpy as np
import onnx
import pytest

from enginehouse.errors import EngineFailed
from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph, why_not_runnable


def _graph(text: str, opset: int = 20) -> Graph:
    return Graph(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}'))


RELU = "(float[N] x) => (float[N] y) { y = Relu(x) }"


@pytest.mark.parametrize("optimize", [False, True])
def test_every_feed_is_answered_in_order(optimize: bool) -> None:
    feeds = [{"x": np.array(numbers, np.float32)} for numbers in ([-1, 2], [3])]
    found = [outputs["y"].tolist() for outputs in run_graph(_graph(RELU), feeds, optimize)]
    assert found == [[0, 2], [3]]


def test_failure_is_an_error_of_ours() -> None:
    with pytest.raises(EngineFailed):
        list(run_graph(_graph(RELU), [{"x": np.zeros((1, 1), np.float32)}], optimize=False))


def test_graph_that_cannot_be_opened_says_why() -> None:
    assert why_not_runnable(_graph(RELU)) is None
    reason = why_not_runnable(_graph(RELU.replace("Relu(x)", "Dropout<is_test = 1>(x)"), opset=6))
    assert reason is not None
    assert "Dropout" in reason
