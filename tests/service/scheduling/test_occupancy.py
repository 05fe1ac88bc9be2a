"""When instances are expected to be free, in time or late."""

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
    return [occupancy.ends_at(instance) for instance in instances]


def test_each_is_free_when_its_own_batch_ends() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    for instance, rows in (("a", 3), ("b", 2)):
        occupancy.started(instance, of(rows))
    clock.advance(1)
    assert seen(occupancy, "a", "b") == [3, 2]
    assert occupancy.free_times(1) == [2, 3]
    assert len(occupancy) == 2


def test_who_overruns_is_expected_to_overrun_as_much_again() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    occupancy.started("a", of(2))
    assert occupancy.free_times(5) == [8]
    assert seen(occupancy, "a") == [2]


def test_what_followed_counts_from_the_end_of_the_first_and_not_from_when_that_was_heard() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock, lambda rows: float(rows))
    first, second = of(2), of(3)
    occupancy.started("a", first)
    clock.advance(4)
    first.end(2.5, followed_by=second)
    second.rows = 3
    assert occupancy.ended("a", first) == 2.5
    occupancy.started("a", second)
    assert seen(occupancy, "a") == [5.5]
    clock.advance(2)
    second.end(5.5, followed_by=None)
    assert occupancy.ended("a", second) == pytest.approx(3.5), "with the time until it was heard"
    assert len(occupancy) == 0


def test_without_a_curve_a_batch_takes_as_long_as_the_last_one_and_a_smaller_one_less() -> None:
    clock = FakeClock()
    occupancy: Any = Occupancy(clock)
    assert not occupancy.is_known
    occupancy.started("a", of(2))
    clock.advance(4)
    occupancy.ended("a", of(2))
    assert occupancy.is_known
    occupancy.started("a", of(1, 4))
    occupancy.started("b", of(6, 4))
    assert seen(occupancy, "a", "b") == [6, 8]
