from collections.abc import Callable

import numpy as np
import pytest
from onnx import helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.repair.layer_weights import with_weights
from optimizer.repair.quantized_weights import quantized_weights
from optimizer.repair.repair import Quantize

INTEGERS = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
TEXT = "(float[n, 3] x) => (float[n, 4] y) { y = MatMul(x, w) }"


def one_layer(plant: Callable[..., Graph], axis: int, scales: Array, zero_points: Array | None = None) -> Graph:
    """The text form knows no INT8 weights; they take the place of float ones."""
    model = plant(TEXT, {"w": INTEGERS}).copy()
    del model.graph.initializer[:]
    inputs = ["q", "s"] if zero_points is None else ["q", "s", "z"]
    model.graph.node.append(helper.make_node("DequantizeLinear", inputs, ["w"], axis=axis))
    arrays: dict[str, Array] = {"q": INTEGERS, "s": scales.astype(np.float32)}
    return with_weights(Graph(model), arrays if zero_points is None else arrays | {"z": zero_points})


def test_each_output_has_its_scale(plant: Callable[..., Graph]) -> None:
    found = quantized_weights(one_layer(plant, 1, np.array([1, 2, 3, 4])))["y_node"]
    np.testing.assert_array_equal(found.integers, INTEGERS)
    np.testing.assert_array_equal(found.scales, [[1, 2, 3, 4]])
    assert found.name == "q"
    assert found.is_per_output


def test_one_scale_is_for_all_outputs(plant: Callable[..., Graph]) -> None:
    found = quantized_weights(one_layer(plant, 1, np.array(0.5)))["y_node"]
    np.testing.assert_array_equal(found.scales, [[0.5] * 4])
    assert not found.is_per_output


@pytest.mark.parametrize("zero_points", [np.zeros(4, np.int8), np.array([0, 1, 0, 0], np.int8)])
def test_integers_that_are_not_symmetric_are_left_out(plant: Callable[..., Graph], zero_points: Array) -> None:
    found = quantized_weights(one_layer(plant, 1, np.ones(4), zero_points))
    assert ("y_node" in found) == (not zero_points.any())


def test_scales_by_input_are_left_out(plant: Callable[..., Graph]) -> None:
    assert not quantized_weights(one_layer(plant, 0, np.ones(3)))
    assert not quantized_weights(one_layer(plant, 0, np.ones(4))), "as many as outputs, but on the other axis"


def test_a_silent_output_has_a_scale_that_can_be_divided_by(plant: Callable[..., Graph]) -> None:
    found = quantized_weights(one_layer(plant, 1, np.array([0, 1, 1, 1])))["y_node"]
    assert found.scales.min() > 0


def test_every_layer_of_a_quantized_network_is_read(
    cnn: Graph,
    digits: list[dict[str, Array]],
    quantizer: Callable[..., Quantize],
    names_of: Callable[[Graph], list[str]],
) -> None:
    graph = quantizer(digits)(cnn)
    assert isinstance(graph, Graph)
    assert list(quantized_weights(graph)) == names_of(cnn)
    assert not quantized_weights(cnn)
