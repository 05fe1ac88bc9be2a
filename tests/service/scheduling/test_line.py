"""Two kinds of waiting lines, held to what a plain sorted list does."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.line import ArrivalLine, DeadlineLine, Line


@dataclass(eq=False)
class Entry:
    due: float
    rows: int
    number: int = field(default=0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9), st.integers(1, 4)),
        st.tuples(st.just("pop"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 40), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.booleans(), st.integers(0, 9))
def test_the_line_is_always_in_its_order_and_knows_its_rows(
    steps: list[tuple[str, int, int]], by_deadline: bool, due: int
) -> None:
    line: Line[Entry] = DeadlineLine() if by_deadline else ArrivalLine()
    everybody: list[Entry] = []
    expected: list[Entry] = []
    for what, number, rows in steps:
        if what == "push":
            entry = Entry(float(number), rows, len(everybody))
            everybody.append(entry)
            expected.append(entry)
            line.push(entry)
        elif what == "pop":
            assert line.pop(number) == expected[:number]
            del expected[:number]
        elif everybody:
            entry = everybody[number % len(everybody)]
            assert line.remove(entry) == (entry in expected)
            if entry in expected:
                expected.remove(entry)
        if by_deadline:
            expected.sort(key=lambda one: (one.due, one.number))
        assert list(line) == expected
        assert len(line) == len(expected)
        assert line.rows == sum(one.rows for one in expected)
    before = [one for one in expected if not by_deadline or one.due <= due]
    assert line.rows_until(due) == sum(one.rows for one in before)
    assert line.behind(due) == expected[len(before) :]
