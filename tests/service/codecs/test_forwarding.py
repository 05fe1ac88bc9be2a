"""Headers that become parameters."""

import pytest

from enginehouse.errors import InvalidInput
from service.codecs.forwarding import HeaderPattern

HEADERS = [("X-Trace-Id", "1"), ("x-trace-id", "2"), ("Tenant", "t"), ("Accept", "a")]


def test_a_pattern_is_found_anywhere_in_a_name_and_in_any_case() -> None:
    assert HeaderPattern("trace").parameters(HEADERS) == {"X-Trace-Id": "1", "x-trace-id": "2"}
    assert HeaderPattern("^tenant$|^acc").parameters(HEADERS) == {"Tenant": "t", "Accept": "a"}


def test_case_matters_where_the_pattern_says_so() -> None:
    assert HeaderPattern("(?-i)X-Trace.*").parameters(HEADERS) == {"X-Trace-Id": "1"}


def test_an_empty_pattern_forwards_nothing() -> None:
    assert not HeaderPattern("")
    assert HeaderPattern("").parameters(HEADERS) == {}


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"header forward pattern '\(' is no regular expression"):
        HeaderPattern("(")
