"""Who waits at an ensemble's entry, and in which order they go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ensembles.entry_line import EntryLine


@given(st.lists(st.integers(0, 3), max_size=20), st.data())
def test_lower_levels_go_first_and_each_in_its_order_whoever_leaves(levels: list[int], data: st.DataObject) -> None:
    line: EntryLine[int] = EntryLine()
    for number, level in enumerate(levels):
        line.add(level, number)
    gone = set(data.draw(st.lists(st.integers(0, max(0, len(levels) - 1)), unique=True))) if levels else set()
    for number in gone:
        line.remove(number)
    expected = [number for _, number in sorted((level, at) for at, level in enumerate(levels)) if number not in gone]
    assert list(line) == expected
    assert len(line) == len(expected)
    assert [line.take() for _ in expected] == expected
    assert len(line) == 0


def test_nobody_is_taken_who_does_not_wait() -> None:
    line: EntryLine[str] = EntryLine()
    with pytest.raises(IndexError):
        line.take()
    line.add(1, "a")
    line.remove("a")
    with pytest.raises(KeyError):
        line.remove("a")
