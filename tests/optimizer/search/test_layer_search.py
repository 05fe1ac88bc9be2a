from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import pytest

from optimizer.graph.layers import Layer
from optimizer.search.budget import Budget, budget_of
from optimizer.search.layer_facts import LayerFacts
from optimizer.search.layer_search import revert_until_accepted, without_slow_layers
from optimizer.search.tried import Tried
from optimizer.trial import Trial

START = Trial(precision="int8", scheme="u8s8")
LONG = budget_of(inf)
NAMES = tuple("abcdefgh")


def _facts(sensitivity: Mapping[str, float], saved: Mapping[str, float] | None = None) -> tuple[LayerFacts, ...]:
    return tuple(
        LayerFacts(Layer(name, "Conv", "x", ("w",), "y"), sensitivity.get(name, 0.0), 2.0, (saved or {}).get(name, 1.0))
        for name in NAMES
    )


def _speed(tried: Tried) -> float:
    return tried.speed


def _rule(
    harm: Mapping[str, float], saved: Mapping[str, float] | None = None
) -> Callable[[Trial], tuple[float, float]]:
    """Each layer that is lowered costs its harm and saves its time; float layers do neither."""

    def rule(trial: Trial) -> tuple[float, float]:
        lowered = [name for name in NAMES if trial.precision_of(name) == "int8"]
        time = 2.0 * len(NAMES) - sum((saved or {}).get(name, 1.0) for name in lowered)
        return sum(harm.get(name, 0.0) for name in lowered), 2.0 * len(NAMES) / time

    return rule


def test_only_the_layer_that_ruins_the_answers_goes_back_to_float(ruled_runner: Callable[..., Any]) -> None:
    harm = {"d": 0.5}
    runner = ruled_runner(_rule(harm))
    found = revert_until_accepted(runner, runner.run(START, "recipe"), _facts(harm), _speed, LONG)
    assert found.is_accepted
    assert found.trial.layers == {"d": "fp32"}


def test_accuracy_is_bought_where_it_costs_the_least_time(ruled_runner: Callable[..., Any]) -> None:
    """Either of two layers would do; the one that saves little goes back."""
    harm, saved = {"a": 0.02, "b": 0.02}, {"a": 1.9, "b": 0.1}
    runner = ruled_runner(lambda trial: (max(0.0, _rule(harm, saved)(trial)[0] - 0.02), _rule(harm, saved)(trial)[1]))
    found = revert_until_accepted(runner, runner.run(START, "recipe"), _facts(harm, saved), _speed, LONG)
    assert found.trial.layers == {"b": "fp32"}


def test_layers_that_were_reverted_too_early_are_lowered_again(ruled_runner: Callable[..., Any]) -> None:
    """What is thought to be harmful alone turns out to be harmless."""
    believed, harm = {"a": 0.9, "b": 0.8, "c": 0.7}, {"c": 0.5}
    runner = ruled_runner(_rule(harm))
    found = revert_until_accepted(runner, runner.run(START, "recipe"), _facts(believed), _speed, LONG)
    assert found.trial.layers == {"c": "fp32"}
    assert "requantize" in runner.stages


def test_the_number_of_trials_grows_with_the_logarithm_of_the_layers(ruled_runner: Callable[..., Any]) -> None:
    harm = dict.fromkeys("abcdefg", 0.5)
    runner = ruled_runner(_rule(harm))
    found = revert_until_accepted(runner, runner.run(START, "recipe"), _facts(harm), _speed, LONG)
    assert set(found.trial.layers) == set("abcdefg")
    assert runner.stages.count("layers") <= 6


def test_the_best_seen_is_kept_and_not_the_last(ruled_runner: Callable[..., Any]) -> None:
    """Lowering `a` again is inside the tolerance and slower: the trial before it stays."""
    harm, saved = {"a": 0.001, "b": 0.5}, {"a": -1.0}
    runner = ruled_runner(_rule(harm, saved))
    facts = _facts({"a": 0.9, "b": 0.5}, saved)
    found = revert_until_accepted(runner, runner.run(START, "recipe"), facts, _speed, LONG)
    assert found.trial.layers == {"a": "fp32", "b": "fp32"}
    assert found.speed == max(one.speed for one in runner.tried if one.is_accepted)


def test_where_nothing_helps_the_start_comes_back(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(lambda _: (0.5, 2.0))
    start = runner.run(START, "recipe")
    assert revert_until_accepted(runner, start, _facts({"a": 1.0}), _speed, LONG) is start


def test_a_spent_budget_begins_no_trial(ruled_runner: Callable[..., Any]) -> None:
    runner = ruled_runner(_rule({"a": 0.5}))
    start = runner.run(START, "recipe")
    assert revert_until_accepted(runner, start, _facts({"a": 0.5}), _speed, Budget(0.0, lambda: 1.0)) is start
    assert len(runner.tried) == 1


@pytest.mark.parametrize(("saved", "reverted"), [({"a": -0.5}, {"a": "fp32"}), ({"a": 0.5}, {})])
def test_a_layer_that_got_slower_goes_back_to_float(
    ruled_runner: Callable[..., Any], saved: dict[str, float], reverted: dict[str, str]
) -> None:
    runner = ruled_runner(_rule({}, saved))
    found = without_slow_layers(runner, runner.run(START, "recipe"), _facts({}, saved), _speed, LONG)
    assert found.trial.layers == reverted


def test_not_all_layers_go_back_because_then_nothing_would_be_lowered(ruled_runner: Callable[..., Any]) -> None:
    """Only a graph without any lowered layer would be accepted, and that is another trial's engine."""
    harm = dict.fromkeys(NAMES, 0.5)
    runner = ruled_runner(_rule(harm))
    start = runner.run(START, "recipe")
    assert revert_until_accepted(runner, start, _facts(harm), _speed, LONG) is start
    assert max(len(one.trial.layers) for one in runner.tried) == len(NAMES) - 1
