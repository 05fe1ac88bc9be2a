"""When instances are expected to be free, with one batch or two, in time or late."""

from typing import Any

import pytest

from service.clock import FakeClock
from service.scheduling.computation import Answer
from service.scheduling.instance import Batch
from service.scheduling.occupancy import Occupancy


def of(rows: int, started_at: float = 0.0) -> Batch:
    """A batch that ran."""
    return Batch([], rows, started_at, [Answer()])


def seen(occupancy: Any, *instances: str) -> list[float]:
    return [occupancy.free_at(instance) for instance in instances]


def test_what_follows_is_added_and_who_has_nothing_is_free_now() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    a, b, c = "abc"
    for instance, rows in ((a, 3), (b, 2), (a, 4)):
        occupancy.started(instance, of(rows))
    clock.advance(1)
    assert seen(occupancy, a, b, c) == [7, 2, 1]
    assert occupancy.free_times(1) == [2, 7]
    assert len(occupancy) == 2


def test_who_overruns_is_expected_to_overrun_as_much_again() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    occupancy.started("a", of(2))
    clock.advance(5)
    assert seen(occupancy, "a") == [8]


def test_what_followed_counts_from_the_end_of_the_first_and_not_from_when_that_was_heard() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    first, second = of(2), of(3)
    for batch in (first, second):
        occupancy.started("a", batch)
    clock.advance(4)
    first.ended_at = second.started_at = 2.5
    assert occupancy.ended("a", first) == 2.5
    assert seen(occupancy, "a") == [5.5]
    clock.advance(2)
    second.ended_at = 5.5
    assert occupancy.ended("a", second) == pytest.approx(3.5), "with the time until it was heard"
    assert len(occupancy) == 0


def test_without_a_curve_a_batch_takes_as_long_as_the_last_one_and_a_larger_one_longer() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock)
    assert not occupancy.is_known
    occupancy.started("a", of(2))
    clock.advance(4)
    occupancy.ended("a", of(2))
    assert occupancy.is_known
    occupancy.started("a", of(1, 4))
    occupancy.started("b", of(6, 4))
    assert seen(occupancy, "a", "b") == [8, 16]
