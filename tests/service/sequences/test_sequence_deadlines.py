"""Deadlines of requests that belong to sequences."""

from typing import Any

import pytest

from enginehouse.errors import DeadlineExceeded
from tests.service.conftest import Bench
from tests.service.sequence_bench import OLDEST, config, step


def test_what_is_too_late_is_never_computed(accumulator: Any) -> None:
    """Also while the timers are: the engine was given back after the deadline, and before anybody could say so."""
    one = accumulator(config(rows=1))
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(1, 1, parameters={"timeout": 100_000}))
    one.ask("c", step(1, 1))
    one.clock.time = 0.2
    one.clock.run_ready()
    assert one.answers.values("a") == [1]
    assert isinstance(one.answers.error("b"), DeadlineExceeded)
    assert isinstance(one.answers.error("c"), DeadlineExceeded)
    assert len(one.engines[0].runs) == 1
    assert isinstance(late(one), DeadlineExceeded)


def late(one: Bench) -> Any:
    """A request whose deadline has passed when it comes."""
    one.ask("late", step(5, 1, "s", deadline=one.clock.time - 1))
    return one.answers.error("late")


OBJECTIVE = ' parameters { key: "slo_ms" value { string_value: "100" } }'


@pytest.mark.parametrize("strategy", ["direct { }", OLDEST])
def test_a_sequence_lives_on_when_a_request_that_comes_too_late_is_refused(accumulator: Any, strategy: str) -> None:
    one = accumulator(config(strategy) + OBJECTIVE)
    one.clock.time = 10.0
    one.ask("start", step(1, 1, "s", received_at=10.0))
    one.clock.run_ready()
    one.ask("late", step(1, 10, received_at=9.8))
    one.ask("in time", step(1, 100, received_at=9.95))
    one.clock.run_ready()
    assert isinstance(one.answers.error("late"), DeadlineExceeded)
    assert [one.answers.values(key) for key in ("start", "in time")] == [[1], [101]]


@pytest.mark.parametrize("strategy", ["direct { }", OLDEST])
def test_an_objective_is_the_time_that_a_request_of_a_sequence_may_wait(accumulator: Any, strategy: str) -> None:
    one = accumulator(config(strategy, rows=1) + OBJECTIVE)
    one.ask("start", step(1, 1, "s"))
    one.clock.run_ready()
    one.ask("waits", step(1, 1))
    one.clock.time += 0.15
    one.clock.run_ready()
    assert isinstance(one.answers.error("waits"), DeadlineExceeded)
    assert len(one.engines[0].runs) == 1
    one.ask("next", step(1, 1))
    assert "must specify the START flag" in str(one.answers.error("next"))
