from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.quantize.int8 import plan_int8, quantize_int8
from optimizer.repair.bias_correction import correct_biases
from optimizer.repair.layer_weights import with_weights
from optimizer.repair.output_error import opened, output_errors
from optimizer.repair.repair import Quantize, Repaired

Quantizer = Callable[..., Callable[[Graph], Graph]]
Names = Callable[[Graph], list[str]]


@pytest.mark.parametrize(("model", "levels"), [("cnn", 7), ("mlp", 7), ("transformer", 7), ("cnn", 31)])
def test_a_trained_network_loses_much_of_its_error(
    request: pytest.FixtureRequest,
    digits: list[Tensors],
    unseen: list[Tensors],
    quantizer: Quantizer,
    names_of: Names,
    model: str,
    levels: int,
) -> None:
    graph: Graph = request.getfixturevalue(model)
    quantize = quantizer(digits, levels, graph)
    found = correct_biases(graph, names_of(graph), quantize, digits)
    assert isinstance(found, Repaired)
    before, after = output_errors(graph, [quantize(graph), quantize(found.graph)], unseen)
    assert after < 0.75 * before


def test_the_means_of_all_layers_are_the_float_ones_again(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    found = correct_biases(cnn, names_of(cnn), quantizer(digits, 7, cnn), digits)
    assert isinstance(found, Repaired)
    head, _, figures = found.detail.partition(", mean shift ")
    before, after = (float(word) for word in figures.partition(",")[0].split(" -> "))
    assert head == "6 layers"
    assert before > 0.01
    assert after < 1e-4 * before, "each layer is measured behind corrected ones; without that a share would remain"


def test_real_int8_of_the_quantizer_that_renames_values_is_corrected_too(cnn: Graph, digits: list[Tensors]) -> None:
    plan = plan_int8(cnn)
    assert not isinstance(plan, Declined)
    tensors = [name for name in plan.tensors if name != "pixels"]
    model = cnn.copy()
    del model.graph.output[:]
    model.graph.output.extend(type(cnn.model.graph.output[0])(name=name) for name in tensors)
    with opened(Graph(model), optimize=False) as engine:
        observed = [{**engine.run(feed), **feed} for feed in digits]
    ranges = {
        name: (min(float(each[name].min()) for each in observed), max(float(each[name].max()) for each in observed))
        for name in plan.tensors
    }

    def quantize(graph: Graph) -> Graph | Declined:
        return quantize_int8(graph, plan, ranges, "u8s7")

    found = correct_biases(cnn, plan.layers, quantize, digits)
    assert isinstance(found, Repaired), found
    assert found.detail.startswith("6 layers, mean shift ")


def test_weights_stay_and_a_layer_that_is_not_quantized_keeps_its_bias(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    fingerprint = cnn.fingerprint()
    others = names_of(cnn)[1:]
    found = correct_biases(cnn, others, quantizer(digits, 7, cnn), digits)
    assert isinstance(found, Repaired)
    changed = {
        before.name
        for before, after in zip(cnn.model.graph.initializer, found.graph.model.graph.initializer, strict=True)
        if not np.array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))
    }
    biases = {node.name: node.input[2] for node in cnn.model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert changed == {biases[name] for name in others}
    assert cnn.fingerprint() == fingerprint


def test_layers_without_a_bias_get_one(
    plant: Callable[..., Graph], digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    random = np.random.default_rng(0)
    nodes = "a = Conv(pixels, w) b = Relu(a) f = Flatten(b) y = Gemm(f, v)"
    graph = plant(
        f"(float[n, 1, 8, 8] pixels) => (float[n, 5] y) {{ {nodes} }}",
        {"w": random.uniform(0, 1, (4, 1, 3, 3)), "v": random.standard_normal((144, 5))},
    )
    found = correct_biases(graph, names_of(graph), quantizer(digits, 3, graph), digits)
    assert isinstance(found, Repaired)
    inputs = {node.name: len(node.input) for node in found.graph.model.graph.node}
    assert (inputs["a_node"], inputs["y_node"]) == (3, 3)


def test_the_add_behind_a_matmul_is_corrected_in_a_sequence_of_any_length(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    random = np.random.default_rng(0)
    weights: dict[str, Array] = {"w": random.uniform(0, 1, (8, 8)), "v": random.standard_normal((8, 8))}
    nodes = "a = MatMul(x, w) b = Add(a, c) d = Relu(b) e = MatMul(d, v) y = Add(g, e)"
    graph = plant(
        f"(float[n, t, 8] x) => (float[n, t, 8] y) {{ {nodes} }}",
        {**weights, "c": np.ones(8), "g": np.ones(8)},
    )
    feeds: list[Tensors] = [{"x": random.uniform(0, 1, (4, steps, 8)).astype(np.float32)} for steps in (3, 9)]
    quantize = quantizer(feeds, 3, graph)
    found = correct_biases(graph, names_of(graph), quantize, feeds)
    assert isinstance(found, Repaired)
    assert found.graph.op_counts() == graph.op_counts()
    before, after = output_errors(graph, [quantize(graph), quantize(found.graph)], feeds)
    assert after < 0.5 * before


def test_what_is_right_can_be_said_by_another_graph(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    """Weights that are multiples of their scales already: only the graph before that knows what the means were."""
    quantize = quantizer(digits, 7, cnn)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in cnn.model.graph.initializer}
    bent = {name: _nearest(array, 7) for name, array in arrays.items() if array.dtype.kind == "f" and array.ndim > 1}
    graph = with_weights(cnn, bent)
    found = correct_biases(graph, names_of(graph), quantize, digits, reference=cnn)
    assert isinstance(found, Repaired)
    alone = correct_biases(graph, names_of(graph), quantize, digits)
    base = alone.graph if isinstance(alone, Repaired) else graph
    errors = output_errors(cnn, [quantize(base), quantize(found.graph)], digits)
    assert errors[1] < 0.9 * errors[0]


def _nearest(weight: Array, levels: int) -> Array:
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / levels
    found: Array = (np.rint(weight / scale) * scale).astype(np.float32)
    return found


def test_it_declines_where_quantization_does(
    cnn: Graph, digits: list[Tensors], refuses: Quantize, names_of: Names
) -> None:
    assert correct_biases(cnn, names_of(cnn), refuses, digits) == refuses(cnn)


def test_it_declines_where_the_corrected_graph_cannot_be_quantized(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    quantize = quantizer(digits, 7, cnn)
    found = correct_biases(
        cnn, names_of(cnn), lambda graph: quantize(graph) if graph is cnn else Declined("too many bits"), digits
    )
    assert found == Declined("too many bits")


def test_it_declines_where_no_layer_has_a_place_for_a_bias(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    graph = plant("(float[n, 3] x) => (float[n, 2] y) { y = MatMul(x, w) }", {"w": np.ones((3, 2))})
    feeds = [{"x": np.ones((2, 3), np.float32)}]
    found = correct_biases(graph, names_of(graph), quantizer(feeds), feeds)
    assert found == Declined("no quantized layer has a bias, or a place for one")


def test_it_declines_where_nothing_is_gained(cnn: Graph, digits: list[Tensors], names_of: Names) -> None:
    found = correct_biases(cnn, names_of(cnn), lambda graph: graph, digits)
    assert isinstance(found, Declined)
    assert "gain too little: output error 0 -> " in found.reason
