"""A sequence knows what waits, what state it works on, and what must go when one of its requests goes."""

from service.request import SequencePosition
from service.scheduling.queue import Pending
from service.sequences.sequence_line import Place, PlacedPosition, Sequence
from tests.service.conftest import make_request


def add(sequence: Sequence, flags: str = "") -> Pending:
    position = SequencePosition(1, "s" in flags, "e" in flags)
    pending = Pending(make_request(sequence=position), lambda _: None, 1, None)
    sequence.add(pending)
    return pending


def placed(sequence: Sequence) -> PlacedPosition:
    position = sequence.take().request.sequence
    assert isinstance(position, PlacedPosition)
    return position


def test_requests_leave_in_order_with_their_place_and_one_state() -> None:
    sequence = Sequence(1, place=Place(3, 0))
    for flags in ("s", "", "e"):
        add(sequence, flags)
    assert not sequence.is_open
    first, second, third = (placed(sequence) for _ in range(3))
    assert (first.is_start, third.is_end, second.slot) == (True, True, 3)
    assert first.state is second.state is third.state


def test_a_start_in_the_middle_brings_a_state_of_its_own() -> None:
    sequence = Sequence(1, place=Place(0, 0))
    add(sequence, "s")
    add(sequence, "s")
    assert placed(sequence).state is not placed(sequence).state


def test_what_was_built_on_a_request_leaves_with_it() -> None:
    sequence = Sequence(1)
    pendings = [add(sequence, flags) for flags in ("s", "", "")]
    assert sequence.break_at(pendings[1]) == pendings[1:]
    assert not sequence.is_open
    assert sequence.head is pendings[0]
    assert sequence.break_at(pendings[1]) == []


def test_what_began_anew_stays() -> None:
    sequence = Sequence(1)
    pendings = [add(sequence, flags) for flags in ("s", "", "s", "")]
    assert sequence.break_at(pendings[0]) == pendings[:2]
    assert sequence.is_open
    assert [pending for pending, _ in sequence.waiting] == pendings[2:]


def test_lower_slots_come_first_and_spread_over_the_instances() -> None:
    assert sorted([Place(1, 0), Place(0, 1), Place(1, 1), Place(0, 0)]) == [
        Place(0, 0),
        Place(0, 1),
        Place(1, 0),
        Place(1, 1),
    ]
