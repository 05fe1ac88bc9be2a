"""The simulation, against sums computed by hand and against the schemes that it shall justify."""

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.quantize.saturation import saturation_share
from optimizer.quantize.scheme import schemes_for
from optimizer.target import target_from_name
from optimizer.trial import Scheme
from tests.optimizer.quantize.graphs import (
    answers,
    conv,
    depthwise,
    gemms,
    graph_of,
    images,
    node,
    quantized,
    residual,
    rows,
    sequences,
    transformer,
)


def share(graph: Graph, feeds: dict[str, Array], scheme: Scheme) -> dict[str, float]:
    return saturation_share(graph, quantized(graph, feeds, scheme), [feeds])


def strong(shape: tuple[int, ...]) -> Array:
    """Weights that are nearly all at the ends of their range."""
    random = np.random.default_rng(4)
    return np.asarray(np.sign(random.standard_normal(shape)) * random.uniform(0.9, 1.0, shape), np.float32)


def bright(*shape: int) -> dict[str, Array]:
    """Activations that are nearly all at the top of theirs."""
    return {"x": np.random.default_rng(5).uniform(0.8, 1.0, shape).astype(np.float32)}


def test_u8s8_saturates_where_u8s7_does_not_so_it_is_not_used_without_vnni() -> None:
    graph = graph_of([conv("x w", "y")], {"w": strong((8, 3, 3, 3))}, ("n", 3, 8, 8))
    feeds = bright(2, 3, 8, 8)
    assert share(graph, feeds, "u8s8")["y_node"] > 0.2
    assert share(graph, feeds, "u8s7")["y_node"] == 0
    assert schemes_for("onnxruntime", target_from_name("avx2")) == ("u8s7",)


@pytest.mark.parametrize("transposed", [0, 1])
def test_the_share_is_that_of_the_pairs_along_the_summed_axis(transposed: int) -> None:
    weights = np.array([[127, 127, 1, 0], [127, -127, -127, -127], [0, 127, 127, 0]], np.float32).T
    graph = graph_of(
        [node("Gemm", "x w", "y", transB=transposed)], {"w": weights.T if transposed else weights}, ("n", 4)
    )
    feeds = {"x": np.array([[255, 255, 255, 255], [0, 255, 128, 0]], np.float32)}
    # Of 2 rows x 2 pairs x 3 columns, two sums leave 16 bits, both in the first row: column 0 and column 1.
    assert share(graph, feeds, "u8s8") == {"y_node": pytest.approx(2 / 12)}


def test_weights_that_cannot_saturate_are_told_without_running_anything() -> None:
    weak = np.tile(np.array([[1.0], [0.01]], np.float32), (4, 1))
    graph = graph_of([node("MatMul", "x w", "y")], {"w": weak}, ("n", 8))
    found = quantized(graph, rows())
    assert saturation_share(graph, found, []) == {"y_node": 0.0}


def test_every_eight_bit_layer_is_looked_at_except_depthwise_ones() -> None:
    assert len(share(residual(), images(), "u8s8")) == 6
    assert len(share(gemms(), rows(), "u8s8")) == 5
    assert len(share(transformer(), sequences(), "u8s8")) == 6
    assert set(share(depthwise(), images(), "u8s8")) == {"c_node", "y_node"}
    assert share(residual(), images(), "s8s8") == {}


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [1, 0, 1, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 1]},
        {"auto_pad": "VALID"},
        {"group": 2},
    ],
)
def test_windows_are_those_of_the_convolution(attributes: dict[str, object]) -> None:
    """With weights of one sign and one size, a pair saturates exactly where both activations are large."""
    groups = attributes.get("group", 1)
    graph = graph_of(
        [node("Conv", "x w", "y", kernel_shape=[3, 3], **attributes)],
        {"w": np.ones((4, 4 // int(str(groups)), 3, 3), np.float32)},
        ("n", 4, 9, 9),
    )
    values = np.zeros((1, 4, 9, 9), np.float32)
    values[:, :2] = 1.0
    values[:, 2:] = 0.1
    found = share(graph, {"x": values}, "u8s8")["y_node"]
    inside = _share_inside(graph, values)
    assert found == pytest.approx(inside / 2, abs=0.02)


def _share_inside(graph: Graph, values: Array) -> float:
    """The share of window elements that are no padding: a convolution of ones, over its largest possible sum."""
    sums = answers(graph, {"x": np.ones_like(values)})["y"]
    return float(sums.mean() / graph.model.graph.initializer[0].dims[1] / 9)
