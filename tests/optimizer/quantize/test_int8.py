from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of, named_graph
from optimizer.quantize.int8 import plan_int8, quantize_int8
from optimizer.trial import EngineName, Scheme
from tests.optimizer.quantize.graphs import (
    answers,
    chain,
    concatenated,
    conv,
    depthwise,
    fused_operators,
    gated,
    gemms,
    graph_of,
    images,
    node,
    planned,
    quantized,
    relative_error,
    residual,
    rows,
    sequences,
    transformer,
    weight,
)

Case = tuple[Callable[[], Graph], Callable[[], dict[str, Array]]]
CASES: dict[str, Case] = {
    "chain": (chain, images),
    "residual": (residual, images),
    "depthwise": (depthwise, images),
    "concatenated": (concatenated, images),
    "gated": (gated, images),
    "gemms": (gemms, rows),
    "transformer": (transformer, sequences),
}


@pytest.mark.parametrize("scheme", ["u8s8", "u8s7", "s8s8"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("case", CASES)
def test_answers_stay_near_whatever_the_graph_the_scheme_and_the_engine(
    case: str, engine: EngineName, scheme: Scheme
) -> None:
    build, read = CASES[case]
    graph, feeds = build(), read()
    found = quantized(graph, feeds, scheme, engine=engine)
    error = relative_error(answers(found, feeds), answers(graph, feeds))
    assert 0 < error < (1e-2 if scheme == "u8s7" else 4e-3)


@pytest.mark.parametrize("case", CASES)
def test_layers_keep_their_names_and_their_number(case: str) -> None:
    build, read = CASES[case]
    graph = build()
    names = {layer.name for layer in layers_of(graph)}
    assert names <= {each.name for each in quantized(graph, read()).model.graph.node}


@pytest.mark.parametrize("case", CASES)
def test_any_subset_of_the_layers_needs_no_other_ranges_and_is_quantized_alone(case: str) -> None:
    build, read = CASES[case]
    graph, feeds = build(), read()
    everything = planned(graph)
    for engine in ("onnxruntime", "openvino", "tensorrt"):
        for name in everything.layers:
            plan = planned(graph, [name], engine)
            assert plan.layers == (name,)
            assert set(plan.tensors) <= set(everything.tensors)
    some = everything.layers[::2]
    found = quantized(graph, feeds, layers=some)
    assert _integer_layers(found) == set(some)
    assert relative_error(answers(found, feeds), answers(graph, feeds)) < 4e-3


def test_fewer_quantized_layers_are_nearer_to_the_original() -> None:
    graph, feeds = residual(), images()
    expected = answers(graph, feeds)
    whole = relative_error(answers(quantized(graph, feeds), feeds), expected)
    one = relative_error(answers(quantized(graph, feeds, layers=["y_node"]), feeds), expected)
    assert one < whole / 2


def test_onnx_runtime_fuses_a_residual_network_into_eight_bits_from_end_to_end(tmp_path: Path) -> None:
    counts = fused_operators(quantized(residual(), images()), tmp_path)
    assert (counts["QLinearConv"], counts["QLinearAdd"], counts["QGemm"]) == (5, 2, 1)
    assert counts["QuantizeLinear"] == 1, "the images"
    assert not counts["DequantizeLinear"]
    assert not {"Conv", "FusedConv", "Add", "Relu", "Clip"} & counts.keys()


def test_onnx_runtime_fuses_what_lies_between_convolutions(tmp_path: Path) -> None:
    counts = fused_operators(quantized(chain(), images()), tmp_path)
    assert counts["QLinearConv"] == 2
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (1, 1), "the input and the output"
    counts = fused_operators(quantized(depthwise(), images()), tmp_path)
    assert counts["QLinearConv"] == 3
    counts = fused_operators(quantized(gated(), images()), tmp_path)
    assert (counts["QLinearConv"], counts["QLinearSigmoid"], counts["QLinearMul"]) == (4, 2, 2)
    assert not {"Sigmoid", "Mul"} & counts.keys()
    counts = fused_operators(quantized(concatenated(), images()), tmp_path)
    assert (counts["QLinearConv"], counts["QLinearConcat"], counts["Concat"]) == (3, 1, 0)


def test_onnx_runtime_multiplies_matrices_in_eight_bits_and_adds_in_float(tmp_path: Path) -> None:
    counts = fused_operators(quantized(transformer(), sequences()), tmp_path)
    assert counts["MatMulIntegerToFloat"] == 6
    assert counts["QuantizeLinear"] == 4, "one for each activation, shared by its readers"
    assert not counts["DequantizeLinear"]
    counts = fused_operators(quantized(gemms(), rows()), tmp_path)
    assert counts["QGemm"] == 4
    assert not counts["Gemm"]


def test_two_neighbours_in_eight_bits_stay_fused_when_the_rest_is_float(tmp_path: Path) -> None:
    found = quantized(residual(), images(), layers=["c1_node", "c2_node"])
    counts = fused_operators(found, tmp_path)
    assert counts["QLinearConv"] == 2
    assert counts["QLinearAdd"] == 1, "both of its sides are held in eight bits"


def test_activations_are_u8_with_zero_point_and_weights_s8_per_channel() -> None:
    model = quantized(chain(), images()).model
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantize = [each for each in model.graph.node if each.op_type == "QuantizeLinear"]
    assert quantize
    assert all(weights[each.input[2]].dtype == np.uint8 for each in quantize)
    eight_bit = {name: array for name, array in weights.items() if array.dtype == np.int8 and array.ndim == 4}
    assert len(eight_bit) == 2
    assert all(np.abs(array).max(axis=(1, 2, 3)).min() == 127 for array in eight_bit.values()), "channel by channel"
    first = next(each for each in model.graph.node if each.input[0] == "w/integers")
    assert weights[first.input[1]].shape == (8,)
    assert not weights[first.input[2]].any()


def test_the_symmetric_scheme_has_no_zero_points_and_float_biases() -> None:
    model = quantized(residual(), images(), "s8s8", engine="tensorrt").model
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [each for each in model.graph.node if each.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(weights[each.input[2]].dtype == np.int8 and not weights[each.input[2]].any() for each in pairs)
    assert not any(array.dtype == np.int32 for array in weights.values())
    biased = next(each for each in model.graph.node if each.name == "c0_node")
    assert weights[biased.input[2]].dtype == np.float32


def test_nothing_lies_between_a_layer_and_what_tensorrt_and_openvino_fuse_into_it() -> None:
    graph = graph_of([conv("x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "m"), conv("m v", "y")], {
        "w": weight(4, 3, 3, 3), "v": weight(4, 4, 3, 3)}, ("n", 3, 8, 8))  # fmt: skip
    readers = {"onnxruntime": {"QuantizeLinear"}, "openvino": {"Sigmoid", "Mul"}, "tensorrt": {"Sigmoid", "Mul"}}
    for engine, expected in readers.items():
        model = quantized(graph, images(), engine=engine).model  # type: ignore[arg-type]
        result = next(each for each in model.graph.node if each.name == "c_node").output[0]
        assert {each.op_type for each in model.graph.node if result in each.input} == expected


def test_tensorrt_reads_the_other_side_of_a_residual_addition_in_eight_bits() -> None:
    model = quantized(residual(), images(), "s8s8", engine="tensorrt").model
    makers = {each.output[0]: each.op_type for each in model.graph.node}
    addition = next(each for each in model.graph.node if each.name == "a2_node")
    assert [makers[name] for name in addition.input] == ["Conv", "DequantizeLinear"]


def test_a_weight_that_two_layers_share_is_stored_once_for_each_way_round() -> None:
    model = quantized(gemms(), rows()).model
    eight_bit = [
        tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert len(eight_bit) == 4, "w, v, v halved and u"


def test_a_weight_that_a_float_layer_still_reads_is_kept() -> None:
    graph, feeds = gemms(), rows()
    found = quantized(graph, feeds, layers=["h_node"])
    names = {tensor.name for tensor in found.model.graph.initializer}
    assert {"w", "w/integers"} <= names
    assert "b" not in names
    assert relative_error(answers(found, feeds), answers(graph, feeds)) < 1e-3


def test_a_channel_without_weights_keeps_its_bias() -> None:
    weights = {"w": weight(4, 3, 1, 1), "b": np.array([0.1234, 0.5, -0.25, 0.7])}
    weights["w"][0] = 0
    graph = graph_of([conv("x w b", "y", kernel=1)], weights, ("n", 3, 8, 8))
    found = answers(quantized(graph, images()), images())["y"]
    expected = answers(graph, images())["y"]
    assert np.abs(found - expected)[:, 0].max() < 0.01 * np.abs(expected).max()


def test_a_bias_too_large_for_its_scale_is_kept_by_a_coarser_weight() -> None:
    weights = {"w": weight(2, 3, 1, 1) * 1e-12, "b": np.array([1.5, -0.5])}
    graph = graph_of([conv("x w b", "y", kernel=1)], weights, ("n", 3, 8, 8))
    found = answers(quantized(graph, images()), images())["y"]
    assert np.allclose(found[:, 0], 1.5, atol=0.01)
    assert np.allclose(found[:, 1], -0.5, atol=0.01)


def test_a_value_that_is_always_zero_can_be_quantized() -> None:
    graph, feeds = chain(), {"x": np.zeros((2, 3, 8, 8), np.float32)}
    assert relative_error(answers(quantized(graph, feeds), feeds), answers(graph, feeds)) < 4e-3


def test_names_that_are_taken_are_left_alone() -> None:
    graph = graph_of(
        [
            node("Relu", "x", "x/integers"),
            node("MatMul", "x w", "x/dequantized"),
            node("Add", "x/integers x/dequantized", "y"),
        ],
        {"w": weight(8, 8)},
        ("n", 8),
    )
    assert relative_error(answers(quantized(graph, rows()), rows()), answers(graph, rows())) < 1e-3


def test_an_output_that_is_read_inside_the_graph_too_keeps_its_name() -> None:
    model = chain().copy()
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 8, 8, 8]))
    found = quantized(Graph(model), images())
    assert [value.name for value in found.outputs] == ["y", "r"]
    expected = answers(Graph(model), images())["r"]
    assert np.abs(answers(found, images())["r"] - expected).max() < 0.03 * expected.max()


def test_what_a_subgraph_reads_is_still_there() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["inner"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        conv("x w", "c"),
        node("Relu", "c", "r"),
        conv("r v", "d"),
        node("ReduceSum", "d", "s", keepdims=0),
        node("Greater", "s zero", "g"),
        helper.make_node("If", ["g"], ["i"], name="if", then_branch=inner, else_branch=inner),
        node("Add", "i d", "y"),
    ]
    weights = {"w": weight(4, 3, 3, 3), "v": weight(4, 4, 3, 3), "zero": np.array(0.0)}
    graph = graph_of(nodes, weights, ("n", 3, 8, 8))
    assert relative_error(answers(quantized(graph, images()), images()), answers(graph, images())) < 2e-3


def test_the_given_graph_stays_as_it_is_and_the_same_bytes_come_out() -> None:
    graph = residual()
    before = graph.fingerprint()
    first, second = quantized(graph, images()), quantized(graph, images())
    assert graph.fingerprint() == before
    assert first.fingerprint() == second.fingerprint()


def test_nodes_without_names_can_be_quantized(small_graph: Graph) -> None:
    assert not any(each.name for each in small_graph.model.graph.node)
    feeds = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}
    assert planned(small_graph).layers == ("MatMul_0", "Gemm_3")
    assert quantized(small_graph, feeds).op_counts()["DequantizeLinear"] > 0


def test_layers_with_memory_are_left_out() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], name="lstm", hidden_size=4),
        node("MatMul", "h u", "y"),
    ]
    weights = {"w": weight(1, 16, 5), "r": weight(1, 16, 4), "u": weight(4, 4)}
    graph = graph_of(nodes, weights, ("s", "n", 5))
    assert {layer.name for layer in layers_of(graph)} == {"lstm", "y_node"}
    assert planned(graph, ["lstm", "y_node"]).layers == ("y_node",)
    assert plan_int8(graph, ["lstm"]) == Declined(
        "no Conv, Gemm or MatMul among the layers that were asked for to quantize"
    )


def test_nothing_to_quantize_is_declined() -> None:
    found = plan_int8(graph_of([node("Relu", "x", "y")], {}, ("batch", 4)))
    assert found == Declined("no Conv, Gemm or MatMul with FP32 weights to quantize")


def test_a_product_of_two_activations_is_left_alone() -> None:
    assert isinstance(plan_int8(graph_of([node("MatMul", "x x", "y")], {}, (4, 4))), Declined)


def test_a_stack_of_matrices_is_left_alone() -> None:
    assert isinstance(plan_int8(graph_of([node("MatMul", "x w", "y")], {"w": weight(2, 4, 4)}, (2, 4, 4))), Declined)


def test_weights_in_half_precision_are_left_alone() -> None:
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h w", "p"),
        node("Cast", "p", "y", to=TensorProto.FLOAT),
    ]
    model = graph_of(nodes, {}, ("n", 8)).copy()
    model.graph.initializer.append(numpy_helper.from_array(weight(8, 8).astype(np.float16), "w"))
    assert isinstance(plan_int8(Graph(model)), Declined)


def test_an_old_opset_is_declined_with_what_is_needed() -> None:
    found = plan_int8(graph_of([node("MatMul", "x w", "y")], {"w": np.ones((4, 4))}, ("batch", 4), opset=12))
    assert isinstance(found, Declined)
    assert "13 or later is needed" in found.reason


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_ranges_that_are_not_finite_are_declined(bad: float) -> None:
    plan = planned(chain())
    found = quantize_int8(chain(), plan, dict.fromkeys(plan.tensors, (0.0, bad)), "u8s8")
    assert found == Declined("tensor 'x' was not finite on the calibration rows")


def test_a_range_that_is_missing_is_declined() -> None:
    assert quantize_int8(chain(), planned(chain()), {"x": (0.0, 1.0)}, "u8s8") == Declined(
        "tensor 'r' was not observed"
    )


def _integer_layers(graph: Graph) -> set[str]:
    makers = {each.output[0]: each.op_type for each in graph.model.graph.node}
    return {
        each.name
        for each in named_graph(graph).model.graph.node
        if len(each.input) > 1
        and [makers.get(name) for name in each.input[:2]] == ["DequantizeLinear"] * 2
        and each.op_type in ("Conv", "Gemm", "MatMul")
    }
