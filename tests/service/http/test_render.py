"""Errors as HTTP answers."""

import pytest

from enginehouse.errors import Error, InvalidInput, NotReady, Overloaded
from service.http.render import response_from_error


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("full"), 503, "1"),
        (Overloaded("late", retry_after_seconds=0.004), 503, "1"),
        (Overloaded("late", retry_after_seconds=2.1), 503, "3"),
        (NotReady("loading"), 503, "1"),
        (InvalidInput("wrong"), 400, None),
    ],
)
def test_a_busy_server_says_when_to_come_back(error: Error, status: int, retry_after: str | None) -> None:
    answer = response_from_error(error)
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry_after
