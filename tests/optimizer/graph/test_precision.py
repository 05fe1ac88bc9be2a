import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.precision import lowest_precision_of, precision_of


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


@pytest.mark.parametrize(
    ("operator", "weight_type", "expected"),
    [
        ("MatMul", TensorProto.FLOAT, "fp32"),
        ("MatMul", TensorProto.FLOAT16, "fp16"),
        ("MatMul", TensorProto.BFLOAT16, "bf16"),
        ("DequantizeLinear", TensorProto.INT8, "int8"),
        ("QLinearConv", TensorProto.INT8, "int8"),
        ("MatMulInteger", TensorProto.INT8, "int8_dynamic"),
        ("DynamicQuantizeLSTM", TensorProto.INT8, "int8_dynamic"),
        ("MatMulNBits", TensorProto.UINT8, "int4"),
        ("DequantizeLinear", TensorProto.INT4, "int4"),
    ],
)
def test_the_precision_of_a_file_shows_in_its_graph(operator: str, weight_type: int, expected: str) -> None:
    weight = helper.make_tensor("w", weight_type, [1], [1])
    graph = helper.make_graph([helper.make_node(operator, ["x", "w"], ["y"])], "g", [], [], [weight])
    assert lowest_precision_of(Graph(helper.make_model(graph))) == expected
