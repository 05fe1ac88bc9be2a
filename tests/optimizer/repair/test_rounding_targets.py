from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.layer_weights import LayerWeights, with_weights
from optimizer.repair.quantized_weights import quantized_weights
from optimizer.repair.repair import Quantize
from optimizer.repair.rounding_targets import RoundingTarget, rounding_targets, worst_targets

Quantizer = Callable[..., Callable[[Graph], Graph]]
RANDOM = np.random.default_rng(0)
TEXT = "(float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w) b = MatMul(a, v) c = MatMul(b, u) y = MatMul(c, t) }"
FEEDS: list[Tensors] = [{"x": RANDOM.standard_normal((16, 8)).astype(np.float32)}]


def targets_of(graph: Graph, quantize: Quantize) -> tuple[Graph, list[RoundingTarget]]:
    quantized = quantize(graph)
    assert isinstance(quantized, Graph)
    layers = [node.name for node in graph.model.graph.node]
    return quantized, rounding_targets(graph, quantized, LayerWeights(graph), layers)


def exact(seed: int) -> np.ndarray:
    """Weights that four bits hold without loss."""
    weights = np.random.default_rng(seed).integers(-7, 8, (8, 8)).astype(np.float32)
    weights[0] = 7
    return weights


def test_the_worst_layers_are_those_that_lose_something(plant: Callable[..., Graph], quantizer: Quantizer) -> None:
    rough = RANDOM.standard_normal((8, 8))
    graph = plant(TEXT, {"w": exact(1), "v": rough, "u": exact(2), "t": 100 * rough.T})
    quantized, targets = targets_of(graph, quantizer(FEEDS, 7))
    assert [target.name for target in targets] == ["a_node", "b_node", "c_node", "y_node"]
    assert [target.name for target in worst_targets(quantized, targets, FEEDS)] == ["b_node", "y_node"]


def test_no_more_layers_than_can_be_paid_for_are_taken(
    plant: Callable[..., Graph], quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = plant(TEXT, {name: RANDOM.standard_normal((8, 8)) for name in "wvut"})
    quantized, targets = targets_of(graph, quantizer(FEEDS, 7))
    monkeypatch.setattr("optimizer.repair.rounding_targets._MOST_LAYERS", 2)
    assert len(worst_targets(quantized, targets, FEEDS)) == 2


def test_shared_weights_and_layers_too_wide_to_solve_are_left_out(
    plant: Callable[..., Graph], quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "(float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w) b = MatMul(a, w) y = MatMul(b, v) }"
    graph = plant(text, {"w": np.eye(8), "v": np.eye(8)})
    _, targets = targets_of(graph, quantizer(FEEDS, 7))
    assert [target.name for target in targets] == ["y_node"]
    monkeypatch.setattr("optimizer.repair.rounding_targets._MOST_INPUTS", 7)
    assert targets_of(graph, quantizer(FEEDS, 7))[1] == []


def test_a_convolution_that_computes_its_padding_is_left_out(plant: Callable[..., Graph], quantizer: Quantizer) -> None:
    text = '(float[n, 3, 6, 6] x) => (float[n, 4, 6, 6] y) { y = Conv<auto_pad = "SAME_UPPER">(x, w) }'
    graph = plant(text, {"w": RANDOM.standard_normal((4, 3, 3, 3))})
    feeds: list[Tensors] = [{"x": RANDOM.standard_normal((2, 3, 6, 6)).astype(np.float32)}]
    assert targets_of(graph, quantizer(feeds, 7))[1] == []


def per_tensor(graph: Graph) -> Graph:
    """One scale for the whole matrix: 1 / 7 of its largest weight."""
    weight = LayerWeights(graph).array("w")
    scale = np.abs(weight).max() / 7
    model = graph.copy()
    del model.graph.initializer[:]
    model.graph.node.add(op_type="DequantizeLinear", input=["q", "s"], output=["w"])
    arrays = {"q": np.rint(weight / scale).astype(np.int8), "s": np.array(scale, np.float32)}
    return with_weights(Graph(model), arrays)


def test_with_one_scale_for_all_outputs_only_the_largest_weight_of_all_is_held(plant: Callable[..., Graph]) -> None:
    weights = RANDOM.uniform(-1, 1, (8, 4))
    weights[3, 2] = 2
    graph = plant("(float[n, 8] x) => (float[n, 4] y) { y = MatMul(x, w) }", {"w": weights})
    edited = LayerWeights(graph)
    quantized = quantized_weights(per_tensor(graph))["y_node"]
    target = RoundingTarget(graph.model.graph.node[0], quantized, edited)
    samples = RANDOM.standard_normal((200, 8)) + 2 * RANDOM.standard_normal((200, 1))
    gram = (samples.T @ samples)[None]
    integers = target.better_integers(gram, gram)
    assert integers[3, 2] == 7
    assert not np.array_equal(integers, quantized.integers)
    target.encode(integers)
    again = quantized_weights(per_tensor(edited.graph()))["y_node"]
    np.testing.assert_array_equal(again.integers, integers)
    np.testing.assert_array_equal(again.scales, quantized.scales)
