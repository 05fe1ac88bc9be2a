import numpy as np
import pytest
from onnx import TensorProto, helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.quantize.switched_graph import SwitchedGraph
from tests.optimizer.quantize.graphs import (
    answers,
    chain,
    graph_of,
    images,
    node,
    residual,
    rows,
    sequences,
    transformer,
)

RANDOM = np.random.default_rng(3)
FIRST, SECOND = RANDOM.standard_normal((2, 8, 8)).astype(np.float32)


def two_layers() -> Graph:
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")]
    return graph_of(nodes, {"w": FIRST, "v": SECOND}, ("n", 8))


def rounded(values: Array, low: float, high: float, symmetric: bool) -> Array:
    if symmetric:
        step = max(-low, high) / 127
        return np.asarray(np.clip(np.round(values / step), -127, 127) * step, np.float32)
    step = (high - low) / 255
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step, np.float32)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bounds", [(-1.0, 3.0), (-4.0, 4.0), (0.0, 2.0)])
def test_the_error_is_that_of_one_tensor_in_eight_bits(bounds: tuple[float, float], symmetric: bool) -> None:
    feeds = [rows(seed=1), rows(seed=2)]
    switched = SwitchedGraph(two_layers(), ["x", "h", "r"], feeds, symmetric)
    x = np.concatenate([feed["x"] for feed in feeds])
    hidden = np.maximum(x @ FIRST, 0)
    expected = {
        "x": np.maximum(rounded(x, *bounds, symmetric) @ FIRST, 0) @ SECOND,
        "r": rounded(hidden, *bounds, symmetric) @ SECOND,
    }
    y = hidden @ SECOND
    for name, found in expected.items():
        error = float(((found - y) ** 2).sum() / (y**2).sum())
        assert switched.error(name, bounds) == pytest.approx(error, rel=1e-3)
    switched.close()


@pytest.mark.parametrize(
    ("graph", "feed", "tensors"),
    [
        (chain(), images(), ["x", "c"]),
        (residual(), images(), ["x", "r0", "c2", "r2", "c3", "c4", "g"]),
        (transformer(), sequences(), ["x", "n", "q3", "k3", "shares", "mixed", "f2", "sum"]),
    ],
    ids=["convolutions", "residual", "attention"],
)
def test_each_switch_turns_on_its_own_tensor_only(graph: Graph, feed: Tensors, tensors: list[str]) -> None:
    switched = SwitchedGraph(graph, tensors, [feed], symmetric=False)
    errors = [switched.error(name, (-0.3, 0.5)) for name in tensors]
    assert min(errors) > 0
    assert len(set(errors)) == len(errors)
    assert errors == [switched.error(name, (-0.3, 0.5)) for name in tensors], "it is deterministic"
    switched.close()


def test_a_range_without_width_leaves_the_tensor_alone() -> None:
    switched = SwitchedGraph(two_layers(), ["x"], [rows()], symmetric=False)
    assert switched.error("x", (0.0, 0.0)) == 0.0


def test_a_tensor_that_is_given_out_can_be_switched_for_those_that_read_it() -> None:
    """What is given out stays as it is: an engine gives out floats."""
    model = two_layers().copy()
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 8]))
    switched = SwitchedGraph(Graph(model), ["r"], [rows()], symmetric=False)
    hidden = answers(Graph(model), rows())["r"]
    changed, y = rounded(hidden, 0.0, 1.0, False) @ SECOND, hidden @ SECOND
    error = ((changed - y) ** 2).sum() / ((y**2).sum() + (hidden**2).sum())
    assert switched.error("r", (0.0, 1.0)) == pytest.approx(float(error), rel=1e-3)


def test_outputs_of_nothing_but_zeros_count_plainly() -> None:
    graph = graph_of([node("Mul", "x zero", "y")], {"zero": np.zeros(8)}, ("n", 8))
    switched = SwitchedGraph(graph, ["x"], [rows()], symmetric=False)
    assert switched.error("x", (-1.0, 1.0)) == 0.0
