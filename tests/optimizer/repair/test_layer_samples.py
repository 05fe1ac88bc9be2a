from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.run import run_graph
from optimizer.repair.layer_samples import layer_samples, why_not_sampled
from optimizer.repair.layer_weights import matrix_of

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("attributes", "shape", "kernel"),
    [
        ({}, (2, 4, 7, 6), (3, 3)),
        ({"pads": [1, 0, 2, 1], "strides": [2, 1]}, (2, 4, 7, 6), (3, 2)),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2], "group": 2}, (2, 4, 7, 6), (3, 3)),
        ({"group": 4, "auto_pad": "VALID"}, (2, 4, 7, 6), (3, 3)),
        ({"strides": [3]}, (2, 4, 9), (2,)),
        ({}, (2, 4, 4, 5, 3), (2, 2, 2)),
    ],
)
def test_samples_times_weights_are_what_the_convolution_gives(
    attributes: dict[str, Any], shape: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    groups = attributes.get("group", 1)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    weights = RANDOM.standard_normal((8, 4 // groups, *kernel)).astype(np.float32)
    x = RANDOM.standard_normal(shape).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (found,) = run_graph(Graph(model), [{"x": x}], optimize=False)
    samples = layer_samples(node, x, kernel, positions=10_000)
    products = samples @ matrix_of(node, weights).reshape(groups, 8 // groups, -1).swapaxes(1, 2)
    expected = found["y"].reshape(2, groups, 8 // groups, -1).swapaxes(2, 3)
    np.testing.assert_allclose(products, expected, atol=1e-5)


def test_a_sequence_is_a_row_of_positions() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = RANDOM.standard_normal((2, 5, 3))
    np.testing.assert_array_equal(layer_samples(node, x, (), positions=5), x[:, None])
    assert layer_samples(node, x[:, 0], (), positions=5).shape == (2, 1, 1, 3)


def test_few_positions_are_spread_and_differ_from_row_to_row() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = np.broadcast_to(np.arange(12.0)[None, :, None], (4, 12, 1))
    samples = layer_samples(node, x, (), positions=3)[:, 0, :, 0]
    np.testing.assert_array_equal(samples[0], [0, 4, 8])
    assert set(samples.reshape(-1).tolist()) == set(range(12))


def test_padding_that_the_operator_computes_is_declined() -> None:
    assert why_not_sampled(helper.make_node("Conv", ["x", "w"], ["y"])) is None
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")
    assert why_not_sampled(node) == "it pads by itself (SAME_UPPER)"
