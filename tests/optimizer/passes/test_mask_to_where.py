from collections.abc import Callable

import numpy as np
import pytest

from optimizer.graph.graph import Graph
from optimizer.passes.mask_to_where import choose_mask_penalties

LOWEST = np.finfo(np.float32).min
MASK = """(int64[N,6] t, float[N,1,1,6] x) => (float[N,1,1,6] y) {
    keep = Greater(t, zero) number = Cast<to = 1>(keep) away = Sub(one, number)
    wide = Unsqueeze(away, axes) penalty = Mul(wide, lowest) y = Add(x, penalty)
}"""
WEIGHTS = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.float32),
    "axes": np.array([1, 2], np.int64),
    "lowest": np.array(LOWEST, np.float32),
}


@pytest.mark.parametrize("order", ["Mul(wide, lowest)", "Mul(lowest, wide)"])
def test_a_penalty_is_chosen_and_not_computed(
    order: str, plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    graph = plant(MASK.replace("Mul(wide, lowest)", order), WEIGHTS)
    left = {"Add": 1, "Cast": 1, "Greater": 1, "Sub": 1, "Unsqueeze": 1, "Where": 1}
    found = rewrites(choose_mask_penalties, graph, left, tolerance=0)
    where = next(node for node in found.model.graph.node if node.op_type == "Where")
    assert where.output[0] == "penalty"


def test_two_steps_of_new_axes_and_none_are_followed(
    plant: Callable[..., Graph], rewrites: Callable[..., Graph]
) -> None:
    axis = {**WEIGHTS, "axes": np.array([1], np.int64)}
    text = MASK.replace("wide = Unsqueeze(away, axes)", "half = Unsqueeze(away, axes) wide = Unsqueeze(half, axes)")
    left = {"Add": 1, "Cast": 1, "Greater": 1, "Sub": 1, "Unsqueeze": 2, "Where": 1}
    rewrites(choose_mask_penalties, plant(text, axis), left, tolerance=0)
    flat = (
        MASK.replace("wide = Unsqueeze(away, axes) ", "").replace("Mul(wide", "Mul(away").replace("[N,1,1,6]", "[N,6]")
    )
    left = {"Add": 1, "Cast": 1, "Greater": 1, "Sub": 1, "Where": 1}
    rewrites(choose_mask_penalties, plant(flat, WEIGHTS), left, tolerance=0)


def unchanged(graph: Graph) -> bool:
    return not choose_mask_penalties(graph).changed


def test_what_is_no_mask_is_left_alone(plant: Callable[..., Graph]) -> None:
    assert unchanged(plant(MASK, {**WEIGHTS, "one": np.array(2, np.float32)}))
    assert unchanged(plant(MASK, {**WEIGHTS, "lowest": np.array(-np.inf, np.float32)})), "0 times infinity is no number"
    assert unchanged(plant(MASK.replace("Cast<to = 1>(keep)", "Cast<to = 1>(t)"), WEIGHTS))


def test_axes_that_someone_else_needs_are_left_where_they_are(
    plant: Callable[..., Graph], declines: Callable[..., None]
) -> None:
    text = MASK.replace("y = Add(x, penalty)", "z = Add(x, penalty) y = Add(z, wide)")
    declines(choose_mask_penalties, plant(text, WEIGHTS), "also used by")
