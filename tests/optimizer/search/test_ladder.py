from collections.abc import Callable
from math import inf
from typing import Any

from optimizer.search.budget import Budget, budget_of
from optimizer.search.ladder import climb
from optimizer.trial import Trial

START = Trial(precision="int8", scheme="u8s8")
LONG = budget_of(inf)


def _drop(trial: Trial) -> tuple[float, float]:
    """Calibrators and bias correction help, equalization harms, and SmoothQuant does not apply."""
    drop = 0.10
    drop -= 0.03 * (trial.calibrator == "per_tensor")
    drop += 0.05 * ("equalization" in trial.repairs)
    drop -= 0.065 * ("bias_correction" in trial.repairs)
    return drop, 2.0


def test_rungs_are_climbed_only_as_far_as_the_tolerance_needs(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(_drop)
    found = climb(runner, runner.run(START, "recipe"), LONG)
    assert found.best.is_accepted
    assert found.best.trial.repairs == ("bias_correction",)
    assert [rung.name for rung in found.rungs][-1] == "bias_correction"
    assert all("adaptive_rounding" not in one.trial.repairs for one in runner.tried)


def test_a_rung_that_harms_is_left_out_of_the_next_ones(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(_drop)
    found = climb(runner, runner.run(START, "recipe"), LONG)
    harmful = next(rung for rung in found.rungs if rung.name == "equalization")
    assert harmful.drop_after is not None
    assert harmful.drop_before is not None
    assert harmful.drop_after > harmful.drop_before
    assert "equalization" not in found.best.trial.repairs


def test_each_rung_s_gain_is_recorded(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(_drop)
    first, *_ = climb(runner, runner.run(START, "recipe"), LONG).rungs
    assert (first.name, first.drop_before) == ("per_tensor calibrators", 0.10)
    assert abs((first.drop_after or 0) - 0.07) < 1e-9


def test_a_rung_that_does_not_apply_says_why_and_is_passed(ruled_runner: Callable[..., Any]) -> None:
    def rule(trial: Trial) -> tuple[float, float] | None:
        return None if "smooth_quant" in trial.repairs else _drop(trial)

    runner = ruled_runner(rule)
    found = climb(runner, runner.run(START, "recipe"), LONG)
    declined = next(rung for rung in found.rungs if rung.name == "smooth_quant")
    assert (declined.drop_after, declined.detail) == (None, "does not apply")
    assert found.best.is_accepted


def test_an_accepted_trial_climbs_nothing(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(lambda _: (0.0, 2.0))
    assert climb(runner, runner.run(START, "recipe"), LONG).rungs == ()


def test_a_spent_budget_climbs_nothing(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(_drop)
    assert climb(runner, runner.run(START, "recipe"), Budget(0.0, lambda: 1.0)).rungs == ()
