"""Engine layers, made by hand, beside the graphs that they would come from."""

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from optimizer.build.tensorrt_layers import BuiltLayer
from optimizer.build.tensorrt_proof import computing_precision, prove
from optimizer.graph.graph import Graph


def layer(
    name: str = "gemm_0",
    operator: str = "gemm",
    inputs: tuple[str, ...] = ("fp32",),
    weights: str = "fp32",
    outputs: tuple[str, ...] = ("fp32",),
    source_nodes: tuple[str, ...] = ("mm",),
) -> BuiltLayer:
    return BuiltLayer(name, operator, inputs, weights, outputs, source_nodes)


def float_graph(element_type: int = TensorProto.FLOAT) -> Graph:
    weight = helper.make_tensor("w", element_type, [2, 2], np.ones(4))
    return _graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], [weight], element_type)


def quantized_graph() -> Graph:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"], name="dq"),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"], name="dqw"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="mm"),
    ]
    tensors = {"s": np.float32(0.1), "z": np.int8(0), "w8": np.ones((2, 2), np.int8)}
    return _graph(nodes, [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()])


def int4_graph() -> Graph:
    nodes = [
        helper.make_node("DequantizeLinear", ["w4", "s"], ["w"], name="dqw"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="mm"),
    ]
    weight = helper.make_tensor("w4", TensorProto.INT4, [2, 2], [1, 2, 3, 4])
    return _graph(nodes, [weight, numpy_helper.from_array(np.array(0.1, np.float32), "s")])


def _graph(nodes: list[NodeProto], weights: list[TensorProto], element_type: int = TensorProto.FLOAT) -> Graph:
    value, output = (helper.make_tensor_value_info(name, element_type, ["n", 2]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [value], [output], weights)
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]))


def test_a_layer_on_integers_is_int8_and_nothing_is_kept() -> None:
    proof = prove([layer(inputs=("int8", "fp32"), weights="int8")], quantized_graph())
    assert proof.layer_share == {"int8": 1.0}
    assert proof.kept == {}
    assert proof.time_share is None


def test_a_quantized_node_that_runs_in_float_is_kept_and_says_so() -> None:
    proof = prove([layer(name="slow_1", inputs=("fp16",), weights="fp16")], quantized_graph())
    assert proof.layer_share == {"fp16": 1.0}
    assert proof.kept == {"mm": "the graph asks for int8, and the engine's layer slow_1 computes in fp16"}


def test_a_quantized_node_that_no_layer_names_is_never_called_int8() -> None:
    proof = prove([layer(source_nodes=(), inputs=("int8",), weights="int8")], quantized_graph())
    assert proof.layer_share == {"fp32": 1.0}
    assert proof.kept == {"mm": "the graph asks for int8, and no layer of the engine names it"}


def test_a_float_node_that_no_layer_names_is_what_the_strongly_typed_graph_says() -> None:
    proof = prove([], float_graph(TensorProto.FLOAT16))
    assert (proof.layer_share, proof.kept) == ({"fp16": 1.0}, {})


def test_of_several_layers_for_one_node_the_one_counts_that_does_more_than_move() -> None:
    around = layer(name="move", operator="kgen", inputs=("fp32",), weights="")
    assert prove([around, layer(inputs=("fp16",), weights="fp16")], float_graph(TensorProto.FLOAT16)).layer_share == {
        "fp16": 1.0
    }


def test_of_several_layers_that_compute_one_node_the_widest_counts() -> None:
    halves = [layer(inputs=("fp16",), weights="fp16"), layer(name="other", inputs=("fp32",))]
    assert prove(halves, float_graph(TensorProto.FLOAT16)).layer_share == {"fp32": 1.0}


def test_a_node_that_was_generated_as_one_kernel_counts_by_that_kernel() -> None:
    attention = layer(operator="kgen", inputs=("fp16", "fp16"), weights="")
    assert prove([attention], float_graph(TensorProto.FLOAT16)).layer_share == {"fp16": 1.0}


def test_int4_weights_are_int4_whatever_the_activations_are() -> None:
    proof = prove([layer(weights="int4")], int4_graph())
    assert (proof.layer_share, proof.kept) == ({"int4": 1.0}, {})
    unpacked = prove([layer(weights="fp32")], int4_graph())
    assert unpacked.kept == {"mm": "the graph asks for int4, and the engine's layer gemm_0 computes in fp32"}


def test_every_layer_is_recorded_with_what_it_was_fused_from() -> None:
    pool = layer("pool", "maxpool", ("int8",), "fp32", ("int8",), ("p",))
    proof = prove([pool, layer(source_nodes=("mm", "relu"))], float_graph())
    assert [(one.name, one.operator, one.precision, one.source_nodes) for one in proof.layers] == [
        ("pool", "maxpool", "int8", ("p",)),
        ("gemm_0", "gemm", "fp32", ("mm", "relu")),
    ]


@pytest.mark.parametrize(
    ("inputs", "weights", "expected"),
    [
        (("int8",), "int8", "int8"),
        (("int8", "int8"), "", "int8"),
        (("int8",), "fp16", "fp16"),
        (("fp16",), "int8", "fp16"),
        (("fp16", "fp32"), "fp16", "fp16"),
        (("fp8",), "fp8", "fp8"),
        (("int64",), "fp32", "fp32"),
    ],
)
def test_both_operands_must_be_integers(inputs: tuple[str, ...], weights: str, expected: str) -> None:
    assert computing_precision(layer(inputs=inputs, weights=weights)) == expected
