"""The line in front of the loop: order of arrival, refusals that cost nothing, and nothing for those that left."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from enginehouse.errors import NotFound
from service.clock import FakeClock
from service.http.load_shedding import SLICE_SECONDS, LoadShedder, whole_request

REQUEST = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Server:
    """As much of a server as is asked."""

    clock: FakeClock = field(default_factory=FakeClock)
    seconds: float = math.inf
    refused: list[tuple[str, str, int]] = field(default_factory=list)

    def time_to_spare(self, name: str, _version: str) -> float:
        if name == "nobody":
            raise NotFound("nobody is not here")
        return self.seconds

    def count_refusals(self, name: str, version: str, count: int) -> None:
        self.refused.append((name, version, count))


@dataclass
class Caller:
    """A connection that takes its time when it is served."""

    server: Server
    seconds: float = 0.0004
    came_in_at: float | None = None

    def take_turn(self) -> None:
        self.server.clock.time += self.seconds
        self.came_in_at = self.server.clock.now()


def opened(seconds: float = math.inf) -> tuple[Server, Any]:
    server = Server(seconds=seconds)
    return server, LoadShedder(server)  # type: ignore[arg-type]


def crowd(server: Server, shedder: Any, count: int) -> list[Caller]:
    callers = [Caller(server) for _ in range(count)]
    for caller in callers:
        shedder.queue(caller)
    return callers


def test_there_is_time_until_one_round_of_the_loop_has_taken_a_slice_of_it() -> None:
    server, shedder = opened()
    assert shedder.has_time()
    server.clock.time += SLICE_SECONDS / 2
    assert shedder.has_time()


def test_a_round_that_takes_longer_leaves_no_time_and_the_next_round_has_some_again() -> None:
    server, shedder = opened()
    assert shedder.has_time()
    server.clock.time += SLICE_SECONDS  # Time that passes while one round of the loop goes on.
    assert not shedder.has_time()
    server.clock.run_ready()
    assert shedder.has_time()


def test_who_waits_is_served_in_order_and_until_then_nobody_else_is_served_at_once() -> None:
    server, shedder = opened()
    callers = crowd(server, shedder, 8)
    assert not shedder.has_time()
    server.clock.run_ready()
    moments = [caller.came_in_at for caller in callers]
    assert None not in moments
    assert moments == sorted(moments, key=lambda moment: moment or 0)
    assert shedder.has_time()


def test_a_line_that_takes_longer_than_the_model_can_spare_refuses_at_once_in_one_whole_answer() -> None:
    server, shedder = opened(seconds=0.05)
    crowd(server, shedder, 40)
    assert shedder.refusal(REQUEST) is None
    crowd(server, shedder, 400)
    answer = shedder.refusal(REQUEST)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1" in head
    assert b"content-length: %d" % len(body) in head
    assert b"model 'digits': more requests come than can be answered in time" in body


def test_a_model_that_refused_what_was_read_refuses_unread_although_there_is_time_until_it_has_room() -> None:
    server, shedder = opened(seconds=-0.01)
    assert shedder.refusal(REQUEST) is None
    shedder.note_refusal("digits", "")
    assert shedder.has_time()
    assert shedder.refusal(REQUEST).startswith(b"HTTP/1.1 503 ")
    assert shedder.refusal(REQUEST.replace(b"digits", b"others")) is None
    server.clock.run_ready()
    assert server.refused == [("digits", "", 1)]
    server.seconds = 0.01
    assert shedder.refusal(REQUEST) is None
    server.seconds = -0.01
    shedder.has_time()
    server.clock.run_ready()
    assert shedder.refusal(REQUEST) is None, "it had room, so the next one is read again"


def test_what_one_request_takes_is_measured() -> None:
    server, shedder = opened(seconds=0.05)
    callers = crowd(server, shedder, 100)
    for caller in callers:
        caller.seconds = 0.002
    server.clock.run_ready()
    crowd(server, shedder, 100)
    assert shedder.refusal(REQUEST) is not None


def test_models_without_an_objective_and_unknown_ones_are_not_refused_here() -> None:
    server, shedder = opened()
    crowd(server, shedder, 10_000)
    assert shedder.refusal(REQUEST) is None
    server.seconds = -1.0
    assert shedder.refusal(REQUEST.replace(b"digits", b"nobody")) is None


def test_refusals_are_counted_as_such_by_model_and_version() -> None:
    server, shedder = opened(seconds=0.0)
    crowd(server, shedder, 10)
    shedder.refusal(REQUEST)
    shedder.refusal(REQUEST)
    shedder.refusal(REQUEST.replace(b"digits/", b"digits/versions/3/"))
    server.clock.run_ready()
    assert server.refused == [("digits", "", 2), ("digits", "3", 1)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (REQUEST, ("digits", "")),
        (REQUEST.replace(b"digits", b"digits/versions/12"), ("digits", "12")),
        (REQUEST.replace(b"Content-Length: 2", b"content-LENGTH:\t2 "), ("digits", "")),
        (REQUEST.replace(b"Content-Length: 2", b"Content-Length: 2\r\nX-Request-Timeout-Ms: 5"), ("digits", "")),
        (REQUEST[:-1], None),
        (REQUEST + b"P", None),
        (REQUEST + REQUEST, None),
        (REQUEST[:60], None),
        (REQUEST.replace(b"POST", b"GET"), None),
        (REQUEST.replace(b"/infer", b"/infer?x=1"), None),
        (REQUEST.replace(b"/infer", b"/generate"), None),
        (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), None),
        (REQUEST.replace(b"digits", b"dig%69ts"), None),
        (REQUEST.replace(b"digits", b"\xc3\xa9"), None),
        (REQUEST.replace(b"Content-Length: 2", b"Content-Length: +2"), None),
        (REQUEST.replace(b"Content-Length: 2", b"Content-Length: " + b"9" * 40), None),
        (REQUEST.replace(b"Content-Length: 2\r\n", b""), None),
        (REQUEST.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"), None),
        (REQUEST.replace(b"Host: here", b"Transfer-Encoding: chunked"), None),
        (REQUEST.replace(b"Host: here", b"CONNECTION: close"), None),
        (REQUEST.replace(b"Host: here", b"Expect: 100-continue"), None),
        (REQUEST.replace(b"Host: here", b"Upgrade: h2c"), None),
    ],
)
def test_only_what_is_plainly_one_whole_request_can_be_refused_unread(
    data: bytes, expected: tuple[str, str] | None
) -> None:
    assert whole_request(data) == expected
