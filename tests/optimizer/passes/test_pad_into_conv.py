from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.passes.pad_into_conv import fold_pads_into_convs

_RANDOM = np.random.default_rng(9)
PAD_CONV = """(float[N,3,8,8] x) => (float[N,4,H,V] y) {
    p = Pad(x, pads)
    y = Conv(p, W)
}"""
SPATIAL = [0, 0, 1, 2, 0, 0, 3, 1]


def _weights(pads: list[int] = SPATIAL, **more: Array) -> dict[str, Array]:
    weight = _RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
    return {"W": weight, "pads": np.array(pads, np.int64), **more}


def _pads(graph: Graph) -> list[int]:
    (conv,) = graph.model.graph.node
    (pads,) = (list(attribute.ints) for attribute in conv.attribute if attribute.name == "pads")
    return pads


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_pad_becomes_the_pads_of_the_conv(
    opset: int, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    graph = plant(PAD_CONV, _weights(), opset)
    assert _pads(rewrites(fold_pads_into_convs, graph, {"Conv": 1}, tolerance=1e-5)) == [1, 2, 3, 1]


def test_pads_add_up(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    graph = plant(PAD_CONV.replace("Conv(", "Conv<pads = [1, 0, 2, 0]>("), _weights())
    assert _pads(rewrites(fold_pads_into_convs, graph, {"Conv": 1}, tolerance=1e-5)) == [2, 2, 5, 1]


def test_pads_by_attribute_fold_before_opset_11(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = PAD_CONV.replace("Pad(x, pads)", f"Pad<pads = {SPATIAL}>(x)")
    weights = _weights()
    del weights["pads"]
    rewrites(fold_pads_into_convs, plant(text, weights, opset=10), {"Conv": 1}, tolerance=1e-5)


def test_chosen_axes_fold(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = PAD_CONV.replace("Pad(x, pads)", "Pad(x, pads, , axes)")
    graph = plant(text, _weights([5, 6], axes=np.array([-1], np.int64)))
    assert _pads(rewrites(fold_pads_into_convs, graph, {"Conv": 1}, tolerance=1e-5)) == [0, 5, 0, 6]


def test_explicit_zero_and_valid_padding_fold(plant: Callable[..., Graph], rewrites: Callable[..., Graph]) -> None:
    text = PAD_CONV.replace("Pad(x, pads)", "Pad(x, pads, zero)").replace("Conv(", 'Conv<auto_pad = "VALID">(')
    rewrites(fold_pads_into_convs, plant(text, _weights(zero=np.array(0, np.float32))), {"Conv": 1}, tolerance=1e-5)


@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 0], "pads the batch or the channels"),
        ([0, 0, 0, 0, 0, 1, 0, 0], "pads the batch or the channels"),
        ([0, 0, -1, 0, 0, 0, 0, 0], "negative pad"),
    ],
)
def test_pads_that_a_conv_cannot_have_are_declined(
    pads: list[int], reason: str, plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    channels = 3 + pads[1] + pads[5]
    text = PAD_CONV.replace("float[N,4,H,V]", "float[M,4,H,V]")
    weights = {**_weights(pads), "W": np.ones((4, channels, 3, 3), np.float32)}
    declines(fold_pads_into_convs, plant(text, weights), reason)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_other_modes_are_declined(mode: str, plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant(PAD_CONV.replace("Pad(", f'Pad<mode = "{mode}">('), _weights())
    declines(fold_pads_into_convs, graph, f"pads by {mode}")


def test_other_values_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = PAD_CONV.replace("Pad(x, pads)", "Pad(x, pads, one)")
    declines(fold_pads_into_convs, plant(text, _weights(one=np.array(1, np.float32))), "pads with 1, not with zero")


def test_value_that_is_fed_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    text = PAD_CONV.replace(" x)", " x, float one)").replace("Pad(x, pads)", "Pad(x, pads, one)")
    declines(fold_pads_into_convs, plant(text, _weights()), "value is not constant")


def test_pads_that_are_fed_are_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    weights = _weights()
    del weights["pads"]
    graph = plant(PAD_CONV.replace(" x)", " x, int64[8] pads)"), weights)
    declines(fold_pads_into_convs, graph, "pads are not constant")


def test_conv_that_pads_by_itself_is_declined(plant: Callable[..., Graph], declines: Callable[..., None]) -> None:
    graph = plant(PAD_CONV.replace("Conv(", 'Conv<auto_pad = "SAME_UPPER">('), _weights())
    declines(fold_pads_into_convs, graph, "auto_pad")


def test_padded_value_that_someone_else_reads_is_declined(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = PAD_CONV.replace("] y)", "] y, float[N,3,A,B] z)").replace("}", "z = Relu(p) }")
    declines(fold_pads_into_convs, plant(text, _weights()), "also used by Relu 'z'")
