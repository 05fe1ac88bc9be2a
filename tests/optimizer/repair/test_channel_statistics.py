from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.repair.channel_statistics import Channels, channel_statistics

RANDOM = np.random.default_rng(0)


def identity(plant: Callable[..., Graph], shape: str, opset: int = 20) -> Graph:
    return plant(f"(float[{shape}] x) => (float[{shape}] y) {{ h = Relu(x)  y = Neg(h) }}", {}, opset)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize(("shape", "is_last"), [("batch, 3, 4, 5", False), ("batch, 4, 3", True), ("batch, 3", True)])
def test_it_agrees_with_numpy_over_batches_of_different_sizes(
    plant: Callable[..., Graph], shape: str, is_last: bool, opset: int
) -> None:
    sizes = tuple(int(size) for size in shape.split(",")[1:])
    rows = RANDOM.standard_normal((9, *sizes)).astype(np.float32)
    feeds = [{"x": rows[:2]}, {"x": rows[2:3]}, {"x": rows[3:]}]
    site = ("h", Channels(3, is_last))
    found = channel_statistics(identity(plant, shape, opset), [site], feeds)[site]
    values: Array = np.moveaxis(np.maximum(rows, 0), -1 if is_last else 1, 0).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(found.lowest, values.min(axis=1))
    np.testing.assert_allclose(found.highest, values.max(axis=1))
    np.testing.assert_allclose(found.mean, values.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.mean_square, np.square(values).mean(axis=1), rtol=1e-5)


def test_inputs_and_outputs_can_be_observed_too(plant: Callable[..., Graph]) -> None:
    rows = RANDOM.standard_normal((4, 3)).astype(np.float32)
    channels = Channels(3, True)
    found = channel_statistics(identity(plant, "batch, 3"), [("x", channels), ("y", channels)], [{"x": rows}])
    np.testing.assert_allclose(found["x", channels].highest, rows.max(axis=0))
    np.testing.assert_allclose(found["y", channels].lowest, -np.maximum(rows, 0).max(axis=0))


def test_one_value_can_be_read_by_either_axis(plant: Callable[..., Graph]) -> None:
    rows = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
    second, last = ("x", Channels(3, False)), ("x", Channels(4, True))
    found = channel_statistics(identity(plant, "batch, 3, 4"), [second, last, second], [{"x": rows}])
    np.testing.assert_allclose(found[second].highest, rows.max(axis=(0, 2)))
    np.testing.assert_allclose(found[last].highest, rows.max(axis=(0, 1)))
