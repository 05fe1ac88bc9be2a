from collections.abc import Callable, Sequence

import numpy as np
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.layer_weights import LayerWeights, with_weights
from optimizer.repair.output_error import output_errors
from optimizer.repair.repair import Quantize, Repaired
from optimizer.repair.smooth_quant import smooth

Answers = Callable[[Graph, Sequence[Tensors]], list[Tensors]]
Quantizer = Callable[..., Callable[[Graph], Graph]]
Names = Callable[[Graph], list[str]]
RANDOM = np.random.default_rng(0)
WIDTH = 16
# What a transformer's normalization looks like: a few channels tens of times larger than the rest.
SIZES = np.where(np.arange(WIDTH) % 8 == 3, 80.0, 1.0)
FEEDS = [{"x": RANDOM.standard_normal((4, 6, WIDTH)).astype(np.float32)} for _ in range(4)]
PROJECTIONS = "q = MatMul(h, w) k = MatMul(h, v) a = Add(q, k)"
NORM = f"(float[n, t, {WIDTH}] x) => (float[n, t, {WIDTH}] y) {{ h = LayerNormalization(x, scale, bias) "
HARD = {
    "norm": NORM + PROJECTIONS + " y = Tanh(a) }",
    "norm_read_by_a_residual": NORM + PROJECTIONS + " y = Add(a, h) }",
    "mul": f"(float[n, t, {WIDTH}] x) => (float[n, t, {WIDTH}] y) {{ h = Mul(x, scale) {PROJECTIONS} y = Tanh(a) }}",
    "input": f"(float[n, t, {WIDTH}] x) => (float[n, t, {WIDTH}] y) {{ y = MatMul(x, w) }}",
}


def hard(plant: Callable[..., Graph], name: str) -> Graph:
    weights = {
        "scale": SIZES * RANDOM.uniform(0.5, 1.5, WIDTH),
        "bias": SIZES * RANDOM.standard_normal(WIDTH),
        "w": RANDOM.standard_normal((WIDTH, WIDTH)) / SIZES[:, None],
        "v": RANDOM.standard_normal((WIDTH, WIDTH)) / SIZES[:, None],
    }
    text = HARD[name].replace("(", " ").replace(")", " ").replace(",", " ")
    return plant(HARD[name], {each: array for each, array in weights.items() if each in text.split()})


def feeds_of(name: str) -> list[Tensors]:
    return [{"x": feed["x"] * SIZES.astype(np.float32)} for feed in FEEDS] if name == "input" else list(FEEDS)


@pytest.mark.parametrize(
    ("name", "detail", "muls"),
    [
        ("norm", "1 activations smoothed in the node before, 0 by a Mul", 0),
        ("norm_read_by_a_residual", "0 activations smoothed in the node before, 1 by a Mul", 1),
        ("mul", "1 activations smoothed in the node before, 0 by a Mul", 1),
        ("input", "0 activations smoothed in the node before, 1 by a Mul", 1),
    ],
)
def test_outlier_channels_no_longer_hurt_and_in_float_nothing_changes(
    plant: Callable[..., Graph],
    answers: Answers,
    quantizer: Quantizer,
    names_of: Names,
    name: str,
    detail: str,
    muls: int,
) -> None:
    graph, feeds = hard(plant, name), feeds_of(name)
    fingerprint, quantize = graph.fingerprint(), quantizer(feeds)
    found = smooth(graph, names_of(graph), quantize, feeds)
    assert isinstance(found, Repaired)
    assert found.detail.startswith(f"{detail}, output error ")
    assert found.graph.op_counts().get("Mul", 0) == muls
    before, after = output_errors(graph, [quantize(graph), quantize(found.graph)], feeds)
    assert after < 0.1 * before
    for want, have in zip(answers(graph, feeds), answers(found.graph, feeds), strict=True):
        np.testing.assert_allclose(have["y"], want["y"], rtol=1e-4, atol=1e-5 * np.abs(want["y"]).max())
    assert graph.fingerprint() == fingerprint


def test_a_trained_network_with_outliers_is_smoothed(
    mlp: Graph, digits: list[Tensors], unseen: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    arrays: dict[str, Array] = {each.name: numpy_helper.to_array(each) for each in mlp.model.graph.initializer}
    first, second, _ = [node for node in mlp.model.graph.node if node.op_type == "Gemm"]
    factors = np.where(np.arange(256) % 50 == 7, 300.0, 1.0)
    changed = {name: (arrays[name].T * factors).T for name in first.input[1:]}
    changed[second.input[1]] = arrays[second.input[1]] / factors
    graph = with_weights(mlp, {name: array.astype(np.float32) for name, array in changed.items()})
    quantize = quantizer(digits)
    found = smooth(graph, names_of(graph), quantize, digits)
    assert isinstance(found, Repaired)
    trained, before, after = (output_errors(each, [quantize(each)], unseen)[0] for each in (mlp, graph, found.graph))
    assert before > 50 * trained
    assert after < 5 * trained


def test_a_trained_transformer_with_outliers_is_smoothed_in_its_normalizations(
    transformer: Graph, digits: list[Tensors], unseen: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    arrays: dict[str, Array] = {each.name: numpy_helper.to_array(each) for each in transformer.model.graph.initializer}
    layers = [node for node in transformer.model.graph.node if node.op_type == "MatMul" and node.input[1] in arrays]
    changed: dict[str, Array] = {}
    for norm in (node for node in transformer.model.graph.node if node.op_type == "LayerNormalization"):
        readers = [node for node in layers if node.input[0] == norm.output[0]]
        factors = np.where(np.arange(len(arrays[norm.input[1]])) % 20 == 7, 100.0, 1.0)
        if readers:
            changed |= {name: arrays[name] * factors for name in norm.input[1:]}
            changed |= {node.input[1]: arrays[node.input[1]] / factors[:, None] for node in readers}
    graph = with_weights(transformer, {name: array.astype(np.float32) for name, array in changed.items()})
    quantize = quantizer(digits)
    found = smooth(graph, names_of(graph), quantize, digits)
    assert isinstance(found, Repaired)
    assert found.detail.startswith("4 activations smoothed in the node before, 0 by a Mul")
    trained, before, after = (
        output_errors(each, [quantize(each)], unseen)[0] for each in (transformer, graph, found.graph)
    )
    assert before > 20 * trained
    assert after < 2 * trained


def test_a_layer_that_stays_float_reads_what_it_read(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    graph = hard(plant, "norm_read_by_a_residual")
    found = smooth(graph, ["q_node"], quantizer(FEEDS), FEEDS)
    assert isinstance(found, Repaired)
    read = {node.name: node.input[0] for node in found.graph.model.graph.node}
    assert (read["q_node"], read["k_node"]) == ("h_smoothed", "h")


def test_channels_without_outliers_are_left_alone(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    weights = {"w": RANDOM.standard_normal((WIDTH, WIDTH))}
    graph = plant(HARD["input"], weights)
    found = smooth(graph, names_of(graph), quantizer(FEEDS), FEEDS)
    assert found == Declined("no activation has channels that stand out")


def test_a_network_without_matrix_products_is_declined(plant: Callable[..., Graph], quantizer: Quantizer) -> None:
    text = "(float[n, 3, 6, 6] x) => (float[n, 4, 4, 4] y) { y = Conv(x, w) }"
    graph = plant(text, {"w": RANDOM.standard_normal((4, 3, 3, 3))})
    found = smooth(graph, ["y_node"], quantizer([]), [])
    assert found == Declined("no MatMul or Gemm with weights of its own to smooth the input of")


def test_shared_weights_are_left_alone(plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names) -> None:
    text = HARD["input"].replace("y = MatMul(x, w)", "a = MatMul(x, w) y = MatMul(a, w)")
    graph = plant(text, {"w": np.eye(WIDTH)})
    assert isinstance(smooth(graph, names_of(graph), quantizer(FEEDS), FEEDS), Declined)


def test_it_declines_where_quantization_does(plant: Callable[..., Graph], refuses: Quantize, names_of: Names) -> None:
    graph = hard(plant, "norm")
    assert smooth(graph, names_of(graph), refuses, FEEDS) == refuses(graph)


@pytest.mark.parametrize(("name", "is_kept"), [("norm", True), ("norm_read_by_a_residual", False)])
def test_a_mul_must_gain_more_than_a_factor_that_costs_nothing(
    plant: Callable[..., Graph], names_of: Names, name: str, is_kept: bool
) -> None:
    graph = hard(plant, name)

    def four_percent_better_once_smoothed(each: Graph) -> Graph:
        weights = LayerWeights(each)
        for weight in ("w", "v"):
            weights.scale(weight, np.array(1.01 if each is graph else 1.0098))
        return weights.graph()

    found = smooth(graph, names_of(graph), four_percent_better_once_smoothed, FEEDS)
    assert isinstance(found, Repaired) == is_kept, found


def test_it_declines_where_nothing_is_gained(plant: Callable[..., Graph], names_of: Names) -> None:
    graph = hard(plant, "norm")
    found = smooth(graph, names_of(graph), lambda each: each, FEEDS)
    assert isinstance(found, Declined)
    assert "gain too little: output error 0 -> " in found.reason


def test_weights_that_overflow_are_declined(plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names) -> None:
    weights = {"w": np.full((WIDTH, WIDTH), 3e38)}
    graph = plant(HARD["input"], weights)
    feeds = feeds_of("input")
    found = smooth(graph, names_of(graph), quantizer(feeds), feeds)
    assert found == Declined("smoothed weights overflow FP32")
