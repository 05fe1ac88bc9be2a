"""Plant a graph, run one pass over it, and judge the result by its operators and by its outputs."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from optimizer.data.synthetic import synthetic_feeds
from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph
from optimizer.passes.rewrite_pass import RewritePass


def planted(text: str, weights: Mapping[str, Array], opset: int = 20) -> Graph:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> planted {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return Graph(model)


def rewritten_equally(rewrite: RewritePass, graph: Graph, operators: dict[str, int], tolerance: float) -> Graph:
    """Expect these operators, the same interface, and the same outputs for two batch sizes."""
    before = graph.fingerprint()
    result = rewrite(graph)
    assert result.changed
    assert graph.fingerprint() == before, "the pass edited the graph that it was given"
    onnx.checker.check_model(result.graph.model, full_check=True)
    assert result.graph.op_counts() == operators
    assert (result.graph.inputs, result.graph.outputs) == (graph.inputs, graph.outputs)
    feeds = [synthetic_feeds(graph.inputs, rows, graph.batch_axis_open, seed=rows) for rows in (1, 3)]
    pairs = zip(run_graph(graph, feeds, False), run_graph(result.graph, feeds, False), strict=True)
    for expected, found in pairs:
        for name, array in expected.items():
            if array.dtype == object:
                assert found[name].tolist() == array.tolist()
            else:
                np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)
    return result.graph


def declined_because(rewrite: RewritePass, graph: Graph, reason: str) -> None:
    """Expect that nothing changed, and that the pass says why."""
    result = rewrite(graph)
    assert not result.changed
    assert result.graph is graph
    assert any(reason in str(one) for one in result.declined), [str(one) for one in result.declined]


@pytest.fixture
def plant() -> Callable[..., Graph]:
    return planted


@pytest.fixture
def rewrites() -> Callable[..., Graph]:
    return rewritten_equally


@pytest.fixture
def declines() -> Callable[..., None]:
    return declined_because
