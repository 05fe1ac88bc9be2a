"""Parameters with a meaning move into fields of their own; the others stay the client's."""

from typing import Any

import pytest

from enginehouse.errors import InvalidInput
from service.request import SequencePosition
from service.reserved_parameters import parameters_of, sequence_of, take_reserved
from tests.service.conftest import make_request


def test_each_reserved_parameter_finds_its_field_and_the_clients_own_stay() -> None:
    request = make_request(
        parameters={
            "priority": 2,
            "timeout": 1500,
            "sequence_id": 7,
            "sequence_start": True,
            "sequence_end": False,
            "mine": 1.5,
        }
    )
    take_reserved(request)
    assert request.priority == 2
    assert request.timeout_seconds == 0.0015
    assert request.sequence == SequencePosition(7, is_start=True)
    assert request.parameters == {"mine": 1.5}


def test_a_request_without_any_is_left_as_it_is() -> None:
    parameters = {"mine": "x"}
    request = make_request(parameters=parameters)
    take_reserved(request)
    assert request.parameters is parameters
    assert (request.priority, request.timeout_seconds, request.sequence) == (0, 0, None)


def test_what_was_taken_once_is_kept_by_the_next_who_takes() -> None:
    request = make_request(parameters={"priority": 1, "timeout": 9, "sequence_id": "a", "sequence_end": True})
    take_reserved(request)
    request.parameters = {"timeout": 5}
    take_reserved(request)
    assert (request.priority, request.timeout_seconds) == (1, 5e-6)
    assert request.sequence == SequencePosition("a", is_end=True)


@pytest.mark.parametrize("sequence_id", [0, ""])
def test_an_id_of_nothing_is_no_sequence(sequence_id: int | str) -> None:
    request = make_request(parameters={"sequence_id": sequence_id, "sequence_start": True})
    take_reserved(request)
    assert request.sequence is None
    assert request.parameters == {}


@pytest.mark.parametrize("sequence_id", [2**64 - 1, "ü" * 64])
def test_the_largest_ids_are_taken(sequence_id: int | str) -> None:
    request = make_request(parameters={"sequence_id": sequence_id})
    take_reserved(request)
    assert request.sequence == SequencePosition(sequence_id)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("priority", -1, "expected a level"),
        ("priority", True, "expected a level"),
        ("priority", "high", "'high'; expected a level"),
        ("priority", 1.0, "expected a level"),
        ("timeout", "soon", "expected microseconds"),
        ("timeout", -1, "expected microseconds"),
        ("timeout", 2**64, "expected microseconds"),
        ("sequence_id", True, "expected a whole number from 0"),
        ("sequence_id", 1.5, "expected a whole number from 0"),
        ("sequence_id", -1, "expected a whole number from 0"),
        ("sequence_id", 2**64, "expected a whole number from 0"),
        ("sequence_id", "ü" * 65, "has 130 bytes; at most 128"),
        ("sequence_start", 1, "parameter 'sequence_start' is 1; expected true or false"),
        ("sequence_end", "true", "expected true or false"),
    ],
)
def test_one_that_means_nothing_is_refused_and_changes_nothing(name: str, value: Any, expected: str) -> None:
    parameters = {"priority": 3, "mine": 1, name: value}
    request = make_request(parameters=parameters)
    with pytest.raises(InvalidInput, match=expected):
        take_reserved(request)
    assert request.parameters == parameters
    assert (request.priority, request.sequence) == (0, None)


@pytest.mark.parametrize("position", [SequencePosition(7, is_start=True), SequencePosition("a", is_end=True), None])
def test_a_place_in_a_sequence_is_told_as_it_is_read(position: SequencePosition | None) -> None:
    assert sequence_of(parameters_of(position)) == position
