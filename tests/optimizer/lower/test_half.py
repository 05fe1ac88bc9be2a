"""Which layers become half, what follows them, and that the answers stay close."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import layers_of, named_graph
from optimizer.graph.run import run_graph
from optimizer.lower.float_rules import HalfPrecision
from optimizer.lower.half import kept_in_fp32, lower_to_half
from tests.conftest import ROOT
from tests.optimizer.lower.conftest import Ranges, make_graph, observe, random_array

# Unit roundoff of each, a few times over: the chains here are short.
CLOSE = {"fp16": 4e-3, "bf16": 3e-2}


def lowered(graph: Graph, ranges: Ranges, precision: HalfPrecision = "fp16", layers: list[str] | None = None) -> Graph:
    found = lower_to_half(graph, precision, layers, ranges)
    assert isinstance(found, Graph), found
    onnx.checker.check_model(found.model, full_check=True)
    return found


def node(graph: Graph, name: str) -> NodeProto:
    return next(found for found in graph.model.graph.node if found.name == name)


def half_nodes(graph: Graph) -> set[str]:
    """Names of the nodes that give a half tensor, casts left out."""
    inferred = onnx.shape_inference.infer_shapes(graph.model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return {n.name for n in graph.model.graph.node if n.op_type != "Cast" and kinds[n.output[0]] in half}


def casts(graph: Graph) -> int:
    return graph.op_counts().get("Cast", 0)


def largest_difference(expected: Tensors, found: Tensors) -> float:
    """Over the largest expected value."""
    return max(float(np.abs(found[name] - want).max() / np.abs(want).max()) for name, want in expected.items())


def outputs(graph: Graph, feed: Tensors) -> Tensors:
    return next(run_graph(graph, [feed], optimize=True))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_layers_and_what_lies_between_them_are_lowered_and_a_chain_is_cast_once_at_each_end(
    chain: Graph, chain_feeds: list[Tensors], precision: HalfPrecision
) -> None:
    found = lowered(chain, observe(chain, chain_feeds), precision)
    assert half_nodes(found) == {"first", "relu", "second", "add", "third"}
    assert casts(found) == 4  # x, sum, mean, scores
    assert (found.inputs, found.outputs) == (chain.inputs, chain.outputs)


def test_fp16_answers_in_onnx_runtime_as_fp32_does(chain: Graph, chain_feeds: list[Tensors]) -> None:
    found = lowered(chain, observe(chain, chain_feeds))
    difference = largest_difference(outputs(chain, chain_feeds[0]), outputs(found, chain_feeds[0]))
    assert 0 < difference < CLOSE["fp16"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_answers_by_the_standard_as_fp32_does(
    chain: Graph, chain_feeds: list[Tensors], precision: HalfPrecision
) -> None:
    """ONNX's own reference has BF16, which ONNX Runtime lacks on x86."""
    found = lowered(chain, observe(chain, chain_feeds), precision)
    computed: Any = ReferenceEvaluator(found.model).run(None, dict(chain_feeds[0]))
    difference = largest_difference(outputs(chain, chain_feeds[0]), {"y": computed[0]})
    assert 0 < difference < CLOSE[precision]


def test_weights_take_half_the_room_and_the_given_graph_stays(chain: Graph, chain_feeds: list[Tensors]) -> None:
    before = chain.fingerprint()
    found = lowered(chain, observe(chain, chain_feeds))
    assert chain.fingerprint() == before
    sizes = {tensor.name: len(tensor.raw_data) for tensor in chain.model.graph.initializer}
    halves = {tensor.name: len(tensor.raw_data) for tensor in found.model.graph.initializer}
    assert halves == {f"{name}_fp16": size // 2 for name, size in sizes.items() if name != "axes"} | {"axes": 16}


def test_only_the_named_layers_and_what_is_wholly_theirs_are_lowered(chain: Graph, chain_feeds: list[Tensors]) -> None:
    ranges = observe(chain, chain_feeds)
    assert half_nodes(lowered(chain, ranges, layers=["first"])) == {"first", "relu"}
    assert half_nodes(lowered(chain, ranges, layers=["second", "third"])) == {"second", "third"}
    # What the kept layer gives stays FP32 until the next lowered one.
    assert half_nodes(lowered(chain, ranges, layers=["first", "third"])) == {"first", "relu", "third"}


def test_a_tensor_read_in_both_precisions_is_there_in_both(chain: Graph, chain_feeds: list[Tensors]) -> None:
    found = lowered(chain, observe(chain, chain_feeds), layers=["first"])
    assert node(found, "second").input[0] == "r1"
    assert node(found, "add").input[0] == "r1"
    assert node(found, "relu").output[0] == "r1_fp16"
    assert casts(found) == 2  # x down, r1 up once for both readers


def test_what_only_passes_values_on_to_half_layers_is_half_too() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], "softmax"),
        helper.make_node("Transpose", ["s"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("Reshape", ["t", "shape"], ["f"], "reshape"),
        helper.make_node("MatMul", ["f", "w"], ["y"], "product"),
    ]
    weights = {"w": random_array(6, 2), "shape": np.array([-1, 6])}
    graph = make_graph(nodes, weights, {"x": ["n", 6]}, {"y": ["m", 2]})
    feeds: list[Tensors] = [{"x": random_array(6, 6)}]
    found = lowered(graph, observe(graph, feeds))
    assert half_nodes(found) == {"transpose", "reshape", "product"}
    assert casts(found) == 2
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


def test_a_table_of_embeddings_is_lowered_only_with_everything_else() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], "ids", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["e"], "embed"),
        helper.make_node("MatMul", ["e", "w"], ["y"], "product"),
    ]
    weights = {"table": random_array(50, 8), "w": random_array(8, 8, seed=1)}
    graph = make_graph(nodes, weights, {"x": ["n"]}, {"y": ["n", 8]})
    feeds: list[Tensors] = [{"x": np.arange(20, dtype=np.float32)}]
    ranges = observe(graph, feeds)
    found = lowered(graph, ranges)
    assert half_nodes(found) == {"embed", "product"}
    assert found.size_bytes < 0.7 * graph.size_bytes
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


def test_a_layer_beyond_the_reach_of_fp16_stays_and_is_named(chain: Graph, chain_feeds: list[Tensors]) -> None:
    ranges = observe(chain, chain_feeds) | {"c2": (-40000.0, 1.0)}
    found = lowered(chain, ranges)
    assert half_nodes(found) == {"first", "relu", "third"}
    assert kept_in_fp32(chain, "fp16", None, ranges) == {"second": "'c2' reaches 4e+04, and FP16 ends at 65504"}
    assert kept_in_fp32(chain, "bf16", None, ranges) == {}
    assert half_nodes(lowered(chain, ranges, "bf16")) == {"first", "relu", "second", "add", "third"}


def test_a_graph_without_ranges_is_declined_in_fp16_and_not_in_bf16(chain: Graph) -> None:
    declined = lower_to_half(chain, "fp16", None, {})
    assert declined == Declined("Conv 'first' cannot compute in FP16: 'x' has no calibrated range, and 2 more like it")
    assert isinstance(lower_to_half(chain, "bf16", None, {}), Graph)
    assert lower_to_half(chain, "bf16", ["softmax"], {}) == Declined("no layer to compute in BF16")


def test_an_old_graph_is_raised_for_bf16_and_keeps_the_names_of_its_nodes(
    chain: Graph, chain_feeds: list[Tensors]
) -> None:
    found = lowered(chain, {}, "bf16")
    assert (chain.opset, found.opset) == (20, 22)
    assert {n.name for n in chain.model.graph.node} <= {n.name for n in found.model.graph.node}


def test_operators_without_bf16_stay_where_the_opset_cannot_be_raised() -> None:
    """An operator that ONNX does not know is more than its converter takes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Strange", ["c"], ["s"], "strange"),
        helper.make_node("MatMul", ["s", "v"], ["y"], "product"),
    ]
    graph = make_graph(nodes, {"w": random_array(4, 2, 1), "v": random_array(5, 3)}, {"x": [1, 2, 5]}, {"y": [1, 4, 3]})
    for name in ("c", "s"):
        graph.model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 5]))
    found = lower_to_half(graph, "bf16", None, {})
    assert isinstance(found, Graph)
    assert found.opset == 20
    assert kept_in_fp32(graph, "bf16", None, {}) == {"conv": "Conv of opset 20 has no BF16"}
    assert node(found, "conv").input[0] == "x"
    assert node(found, "strange").input[0] == "c"
    assert node(found, "product").input[0] == "s_bf16"


def test_integer_layers_are_left_alone_and_a_float_layer_after_one_is_lowered() -> None:
    """Quantized by hand: `first` has quantized weights; `second` only reads what was quantized for it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["wq", "s"], ["wd"], "dqw"),
        helper.make_node("MatMul", ["xd", "wd"], ["m"], "first"),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"], "q2"),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["md"], "dq2"),
        helper.make_node("Reshape", ["md", "shape"], ["mr"], "reshape"),
        helper.make_node("MatMul", ["md", "w"], ["y"], "second"),
        helper.make_node("MatMul", ["mr", "w"], ["u"], "third"),
    ]
    weights: dict[str, Array] = {
        "s": np.array(0.05, np.float32),
        "z": np.array(3, np.uint8),
        "wq": np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(np.int8),
        "w": random_array(4, 3),
        "shape": np.array([-1, 4]),
    }
    graph = make_graph(nodes, weights, {"x": ["n", 4]}, {"y": ["n", 3], "u": ["n", 3]})
    feeds: list[Tensors] = [{"x": random_array(5, 4)}]
    ranges = {name: pair for name, pair in observe(graph, feeds).items() if name in ("m", "y", "u", "mr")}
    found = lowered(graph, ranges)
    assert half_nodes(found) == {"second", "third"}
    assert kept_in_fp32(graph, "fp16", None, ranges) == {"first": "it computes on integers"}
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


def test_what_a_branch_reads_from_outside_is_there_in_fp32() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(operator, TensorProto.FLOAT, ["n", 3])
        return helper.make_graph([helper.make_node(operator, ["p"], [operator])], operator, [], [result])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        helper.make_node("Greater", ["top", "limit"], ["is_large"], "greater"),
        helper.make_node("If", ["is_large"], ["y"], "if", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    weights = {"w": random_array(4, 3), "limit": np.array(1e6, np.float32)}
    graph = make_graph(nodes, weights, {"x": ["n", 4]}, {"y": ["n", 3]})
    feeds: list[Tensors] = [{"x": random_array(5, 4)}]
    found = lowered(graph, {"x": (-4.0, 4.0), "p": (-9.0, 9.0)})
    assert node(found, "product").output[0] == "p_fp16"
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


def test_names_that_are_taken_are_not_given_twice() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["x_fp16"], "w_fp16"),
        helper.make_node("Neg", ["x_fp16"], ["y"], "x_fp16_cast"),
    ]
    graph = make_graph(nodes, {"w": random_array(4, 4)}, {"x": ["n", 4]}, {"y": ["n", 4]})
    feeds: list[Tensors] = [{"x": random_array(2, 4)}]
    found = lowered(graph, observe(graph, feeds))
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


def test_an_output_that_layers_read_too_keeps_its_type_and_its_name() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "first"),
        helper.make_node("MatMul", ["y", "w"], ["u"], "second"),
    ]
    graph = make_graph(nodes, {"w": random_array(4, 4)}, {"x": ["n", 4]}, {"y": ["n", 4], "u": ["n", 4]})
    feeds: list[Tensors] = [{"x": random_array(2, 4)}]
    found = lowered(graph, observe(graph, feeds))
    assert found.outputs == graph.outputs
    assert node(found, "second").input[0] == "y_fp16"
    assert largest_difference(outputs(graph, feeds[0]), outputs(found, feeds[0])) < CLOSE["fp16"]


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        ("digits/digits.onnx", "digits/digits.npz", "pixels"),
        ("digits/digits_mlp.onnx", "digits/digits.npz", "pixels"),
        ("digits/digits_lstm.onnx", "digits/digits.npz", "pixels"),
        ("digits/digits_transformer.onnx", "digits/digits.npz", "pixels"),
        ("docstrings/docstrings.onnx", "docstrings/docstrings.npz", "tokens"),
    ],
)
def test_a_trained_model_in_fp16_has_no_nan_on_any_calibration_row_and_gives_the_same_answers(
    model: str, data: str, name: str
) -> None:
    graph = named_graph(load_graph(ROOT / "examples" / model))
    with np.load(ROOT / "examples" / data) as arrays:
        rows = arrays[f"calibration/{name}"]
    feeds: list[Tensors] = [{name: rows}]
    found = lowered(graph, observe(graph, feeds))
    assert {layer.name for layer in layers_of(graph)} <= half_nodes(found)
    expected, answered = outputs(graph, feeds[0])["logits"], outputs(found, feeds[0])["logits"]
    assert np.isfinite(answered).all()
    assert (answered.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.995
    assert largest_difference({"logits": expected}, {"logits": answered}) < CLOSE["fp16"]
