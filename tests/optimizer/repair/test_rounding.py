import itertools
from dataclasses import replace

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.repair.rounding import RoundingProblem, kept_where_better, output_errors, rounded


def problem(outputs: int, inputs: int, levels: int, correlation: float, seed: int = 0) -> RoundingProblem:
    """Random weights over inputs that share a part of this size, as the outputs of a ReLU do."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((outputs, inputs))
    scales = np.abs(weights).max(axis=1) / levels
    samples = random.standard_normal((50 * inputs, inputs)) + correlation * random.standard_normal((50 * inputs, 1))
    return RoundingProblem(
        weights=weights,
        scales=scales,
        nearest=np.rint(weights / scales[:, None]),
        gram=samples.T @ samples,
        fixed=np.abs(weights) == np.abs(weights).max(axis=1, keepdims=True),
        limits=np.full(outputs, float(levels)),
    )


def total(of: RoundingProblem, integers: Array) -> float:
    return float(output_errors(of, integers, of.gram).sum())


def test_outputs_suffer_far_less_than_from_nearest_rounding() -> None:
    hard = problem(outputs=16, inputs=200, levels=7, correlation=2)
    assert total(hard, rounded(hard)) < 0.25 * total(hard, hard.nearest)


@pytest.mark.parametrize("seed", range(5))
def test_small_problems_come_near_the_best_of_all_roundings(seed: int) -> None:
    small = problem(outputs=1, inputs=8, levels=3, correlation=2, seed=seed)
    scaled = small.weights[0] / small.scales[0]
    choices = itertools.product(*(((int(np.floor(each)), int(np.ceil(each)))) for each in scaled))
    tried = (np.where(small.fixed, small.nearest, np.array([choice], float)) for choice in choices)
    best = min(total(small, each) for each in tried)
    assert total(small, rounded(small)) <= 1.3 * best


def test_the_weights_that_scales_are_read_from_stay_and_none_leaves_the_range() -> None:
    hard = problem(outputs=16, inputs=200, levels=7, correlation=5)
    found = rounded(hard)
    np.testing.assert_array_equal(found[hard.fixed], hard.nearest[hard.fixed])
    assert np.abs(found).max() == 7
    np.testing.assert_array_equal(found, np.rint(found))


def test_independent_inputs_of_equal_size_leave_nothing_to_gain() -> None:
    plain = problem(outputs=4, inputs=32, levels=7, correlation=0)
    plain = RoundingProblem(plain.weights, plain.scales, plain.nearest, np.eye(32), plain.fixed, plain.limits)
    np.testing.assert_array_equal(rounded(plain), plain.nearest)


def test_inputs_that_never_fire_are_no_trouble() -> None:
    hard = problem(outputs=4, inputs=32, levels=7, correlation=2)
    silent = hard.gram.copy()
    silent[:5] = silent[:, :5] = 0
    found = RoundingProblem(hard.weights, hard.scales, hard.nearest, silent, hard.fixed, hard.limits)
    assert total(found, rounded(found)) < total(found, hard.nearest)
    nothing = RoundingProblem(hard.weights, hard.scales, hard.nearest, np.zeros_like(silent), hard.fixed, hard.limits)
    assert np.isfinite(rounded(nothing)).all()


def test_descent_betters_what_error_feedback_found(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    samples = random.standard_normal((4000, 20)) @ random.standard_normal((20, 200)) + random.standard_normal(
        (4000, 200)
    )
    active = np.maximum(samples, 0)
    hard = replace(problem(outputs=16, inputs=200, levels=7, correlation=0), gram=active.T @ active)
    with_descent = rounded(hard)
    monkeypatch.setattr("optimizer.repair.rounding._SWEEPS", 0)
    assert total(hard, with_descent) < 0.999 * total(hard, rounded(hard))


def test_blocks_of_inputs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = problem(outputs=4, inputs=300, levels=7, correlation=2)
    by_blocks = rounded(wide)
    monkeypatch.setattr("optimizer.repair.rounding._BLOCK", 1000)
    np.testing.assert_array_equal(by_blocks, rounded(wide))


def test_outputs_that_are_no_better_on_other_inputs_keep_their_nearest_integers() -> None:
    hard = problem(outputs=8, inputs=64, levels=7, correlation=2)
    found = rounded(hard)
    others = np.eye(64)
    kept = kept_where_better(hard, found, others)
    for output in range(8):
        errors = [output_errors(hard, each, others)[output] for each in (found, hard.nearest)]
        expected = found if errors[0] < errors[1] else hard.nearest
        np.testing.assert_array_equal(kept[output], expected[output])
    assert (kept == hard.nearest).all(axis=1).any(), "independent inputs are what nearest rounding is best for"
