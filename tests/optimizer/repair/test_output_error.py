from collections.abc import Callable

import numpy as np
import pytest

from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.output_error import judged, output_errors, quantized_and_judged
from optimizer.repair.repair import Quantize, Repaired

FEEDS = [{"x": np.full((2, 2), 3, np.float32)}, {"x": np.full((1, 2), 1, np.float32)}]


@pytest.fixture
def scaled(plant: Callable[..., Graph]) -> Callable[[float], Graph]:
    text = "(float[batch, 2] x) => (float[batch, 2] y) { y = Mul(x, factor) }"
    return lambda factor: plant(text, {"factor": np.array(float(factor))})


def test_the_error_is_a_share_of_the_reference_over_all_feeds(scaled: Callable[[float], Graph]) -> None:
    assert output_errors(scaled(2), [scaled(1)], FEEDS) == [pytest.approx(0.25)]
    assert output_errors(scaled(2), [scaled(2)], FEEDS) == [0]


def test_outputs_that_are_not_finite_are_infinitely_wrong(scaled: Callable[[float], Graph]) -> None:
    assert output_errors(scaled(2), [scaled(np.inf)], FEEDS) == [np.inf]
    assert output_errors(scaled(2), [scaled(np.nan)], FEEDS) == [np.inf]


def test_a_reference_of_zeros_divides_nothing_by_zero(scaled: Callable[[float], Graph]) -> None:
    assert output_errors(scaled(0), [scaled(0)], FEEDS) == [0]
    assert output_errors(scaled(0), [scaled(1)], FEEDS) == [np.inf]


def test_several_graphs_are_compared_at_once(scaled: Callable[[float], Graph]) -> None:
    assert output_errors(scaled(2), [scaled(1), scaled(3), scaled(2)], FEEDS) == pytest.approx([0.25, 0.25, 0])


def test_a_repair_that_helps_is_kept_with_what_it_gained(scaled: Callable[[float], Graph]) -> None:
    repaired = scaled(5)
    found = judged(scaled(2), scaled(1), repaired, scaled(1.8), FEEDS, "1 layer")
    assert found == Repaired(repaired, "1 layer, output error 0.25 -> 0.01")


def test_a_gain_too_small_to_be_of_the_model_is_none(scaled: Callable[[float], Graph]) -> None:
    for after, least, is_kept in ((1.005, 0.02, False), (1.1, 0.02, True), (1.1, 0.5, False)):
        found = judged(scaled(2), scaled(1), scaled(2), scaled(after), FEEDS, "1 layer", least)
        assert isinstance(found, Repaired) == is_kept


def test_a_repair_that_harms_is_declined_with_the_figures(scaled: Callable[[float], Graph]) -> None:
    found = judged(scaled(2), scaled(1), scaled(2), scaled(4), FEEDS, "1 layer")
    assert found == Declined("1 layer gain too little: output error 0.25 -> 1")


def test_both_forms_are_quantized(scaled: Callable[[float], Graph], refuses: Quantize) -> None:
    before, after = scaled(2), scaled(2.5)

    def halves_the_original(graph: Graph) -> Graph | Declined:
        return scaled(1) if graph is before else graph

    found = quantized_and_judged(before, before, after, halves_the_original, FEEDS, "1 layer")
    assert isinstance(found, Repaired)
    assert found.detail == "1 layer, output error 0.25 -> 0.0625"
    assert quantized_and_judged(before, before, after, refuses, FEEDS, "") == Declined("no INT8 for 1 nodes")


def test_a_repaired_graph_that_cannot_be_quantized_is_declined(scaled: Callable[[float], Graph]) -> None:
    before, after = scaled(2), scaled(2.5)

    def refuses_the_repaired(graph: Graph) -> Graph | Declined:
        return Declined("too large now") if graph is after else graph

    assert quantized_and_judged(before, before, after, refuses_the_repaired, FEEDS, "") == Declined("too large now")
