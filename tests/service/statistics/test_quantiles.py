"""Quantiles come near the true ones, of the last minute only."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.statistics.quantiles import RELATIVE_ERROR, SLICES, WINDOW_SECONDS, RecentQuantiles

RANKS = (0.0, 0.5, 0.9, 0.99, 1.0)


class Hands:
    """A clock's, moved by the test."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e9)), min_size=1, max_size=300))
def test_each_is_within_the_error_of_the_value_at_its_rank(values: list[float]) -> None:
    recent = RecentQuantiles()
    for one in values:
        recent.observe(one)
    ranked = sorted(values)
    for rank, found in zip(RANKS, recent.at(RANKS), strict=True):
        true = ranked[math.floor(rank * (len(ranked) - 1))]
        assert found == pytest.approx(true, rel=RELATIVE_ERROR * 1.001)
    assert recent.count == len(values)
    assert recent.total == pytest.approx(sum(values))


def test_there_is_none_of_nothing() -> None:
    assert all(math.isnan(found) for found in RecentQuantiles().at(RANKS))


def test_what_is_older_than_the_window_counts_only_in_the_sums() -> None:
    now = Hands()
    recent = RecentQuantiles(now)
    recent.observe(100)
    now.seconds += WINDOW_SECONDS / 2
    recent.observe(1)
    assert recent.at([1.0]) == [pytest.approx(100, rel=RELATIVE_ERROR)]
    now.seconds += WINDOW_SECONDS / 2
    assert recent.at([1.0]) == [pytest.approx(1, rel=RELATIVE_ERROR)]
    now.seconds += WINDOW_SECONDS
    assert math.isnan(recent.at([1.0])[0])
    assert (recent.count, recent.total) == (2, 101)


def test_memory_is_bounded_however_long_and_wild_it_runs() -> None:
    now = Hands()
    recent = RecentQuantiles(now)
    for step in range(3000):
        now.seconds += WINDOW_SECONDS / 500
        recent.observe(10.0 ** (step % 30 - 15))
    assert len(recent._slices) == SLICES
    assert sum(len(counts) for counts in recent._slices.values()) <= SLICES * 30
