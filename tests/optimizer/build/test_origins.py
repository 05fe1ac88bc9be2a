"""From the names of ONNX Runtime's kernels back to the nodes of the graph, with kernels planted by hand."""

from collections.abc import Sequence

from onnx import NodeProto, helper

from optimizer.build.origins import Origins
from optimizer.graph.graph import Graph
from tests.optimizer.build.small_nets import (
    dynamic_product,
    graph_of,
    perceptron,
    quantized_convolution,
    random_array,
    residual,
)


def kernel(operator: str, inputs: Sequence[str], output: str, name: str = "") -> NodeProto:
    return helper.make_node(operator, inputs, [output], name)


def test_a_kernel_ends_with_the_tensor_that_it_gives() -> None:
    kernels = [
        kernel("FusedGemm", ["x", "w1", "b1"], "r", "fused first"),
        kernel("MatMul", ["r", "w2"], "p", "second"),
        kernel("Softmax", ["p"], "y", "softmax"),
    ]
    assert Origins(perceptron()).of_kernels(kernels) == [("first", "relu"), ("second",), ("softmax",)]


def test_kernels_in_a_layout_of_their_own_are_named_after_their_tensor() -> None:
    """The sum is inside the second convolution, whose name is that of the tensor before it."""
    kernels = [
        kernel("Conv", ["x", "reorder", "b1"], "reorder_token_0", "r1_nchwc"),
        kernel("Conv", ["reorder_token_0", "reorder_token_1", "b1", "reorder_token_0"], "reorder_token_2", "c2_nchwc"),
        kernel("ReorderOutput", ["reorder_token_2"], "y", "ReorderOutput"),
    ]
    assert Origins(residual()).of_kernels(kernels) == [("first", "relu"), ("second", "add", "last"), ()]


def test_casts_that_onnx_runtime_puts_in_are_seen_through() -> None:
    kernels = [
        kernel("FusedGemm", ["x", "FusedBack_w1", "FusedBack_b1"], "InsertedPrecisionFreeCast_r", "fused first"),
        kernel("MatMul", ["InsertedPrecisionFreeCast_r", "w2"], "p", "second"),
        kernel("Cast", ["p"], "y", "y_cast"),
    ]
    assert Origins(perceptron()).of_kernels(kernels)[:2] == [("first", "relu"), ("second", "softmax")]


def test_an_integer_kernel_reaches_from_pair_to_pair() -> None:
    kernels = [
        kernel("QuantizeLinear", ["x", "s", "z"], "xq", "x_q"),
        kernel("Transpose", ["xq"], "Transpose_out0", "Transpose"),
        kernel("QLinearConv", ["Transpose_out0", "s", "z", "wq", "sw", "zw", "so", "z"], "conv", "conv_token_1"),
        kernel("Transpose", ["conv"], "cq", "Transpose_token_2"),
        kernel("DequantizeLinear", ["cq", "so", "z"], "y", "c_dq"),
    ]
    assert Origins(quantized_convolution(True)).of_kernels(kernels) == [(), (), ("conv",), (), ()]


def test_what_follows_a_quantized_layer_up_to_its_pair_belongs_to_it() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "s"], ["wd"], "w_dq"),
        helper.make_node("QuantizeLinear", ["x", "s"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s"], ["xd"], "x_dq"),
        helper.make_node("MatMul", ["xd", "wd"], ["p"], "product"),
        helper.make_node("Relu", ["p"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s"], ["rq"], "r_q"),
        helper.make_node("DequantizeLinear", ["rq", "s"], ["y"], "r_dq"),
    ]
    kernels = [kernel("QLinearMatMul", ["xq", "s", "z", "wq"], "product", "product_token_4")]
    assert Origins(graph_of(nodes, {}, "y")).of_kernels(kernels) == [("product", "relu")]


def test_a_kernel_takes_in_what_finds_its_range() -> None:
    kernels = [kernel("DynamicQuantizeMatMul", ["x", "wq", "sw", "zw"], "y", "product_quant")]
    assert Origins(dynamic_product()).of_kernels(kernels) == [("x_q", "product", "scales", "scaled")]


def test_no_node_belongs_to_two_kernels_and_none_is_lost() -> None:
    kernels = [
        kernel("Conv", ["x"], "unknown_0", "unknown"),
        kernel("Conv", ["unknown_0"], "r1", "other"),
        kernel("Conv", ["unknown_0"], "y", "last"),
    ]
    found = Origins(residual()).of_kernels(kernels)
    assert found == [(), ("first", "relu"), ("second", "add", "last")]


def test_a_kernel_multiplies_once_unless_it_is_attention() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], "query"),
        helper.make_node("Softmax", ["q"], ["s"], "softmax"),
        helper.make_node("MatMul", ["s", "w"], ["y"], "value"),
    ]
    graph: Graph = graph_of(nodes, {"w": random_array(32, 32)}, "y")
    assert Origins(graph).of_kernels([kernel("FusedMatMul", ["?"], "y")]) == [("value",)]
    assert Origins(graph).of_kernels([kernel("Attention", ["?"], "y")]) == [("query", "softmax", "value")]
