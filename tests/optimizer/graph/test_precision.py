import numpy as np
import pytest
from onnx import numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.precision import precision_of


@pytest.mark.parametrize(("kind", "precision"), [("float32", "fp32"), ("float16", "fp16"), ("float64", "fp64")])
def test_a_graph_computes_in_what_most_of_its_weights_are(small_graph: Graph, kind: str, precision: str) -> None:
    model = small_graph.copy()
    for tensor in list(model.graph.initializer)[:3]:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros(2, kind), tensor.name))
    assert precision_of(Graph(model)) == precision


def test_a_graph_without_weights_counts_as_fp32(small_graph: Graph) -> None:
    model = small_graph.copy()
    del model.graph.initializer[:]
    assert precision_of(Graph(model)) == "fp32"
