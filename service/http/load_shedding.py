"""The line in front of the event loop: where tiny models are asked for more than it can read, decode and answer.

A model's own queue knows only requests that were decoded. If the loop itself is what is overloaded, they wait before
that, in the sockets, where nobody sees how many they are, and all of them come too late. So a loop that has been busy
for a moment only takes requests out of their sockets, and serves them one after the other in slices between which it
looks for more. A request to a model with an objective (`slo_ms`) that finds too much before it is refused on the spot;
that costs a fraction of an answer, because nothing but the shape of its head is read. So is one to a model whose own
line is too long already: what refusals cost is missing where answers are computed.
"""

import math
import re
from collections import Counter, deque
from typing import Protocol

import orjson

from enginehouse.errors import Error
from service.http.render import RETRY_AFTER_SECONDS
from service.server import InferenceServer

# How long the loop serves before it looks for more: what comes meanwhile hears no refusal sooner.
SLICE_SECONDS = 0.001

# What one request takes, before any was measured under load; then an average that forgets.
_FIRST_SECONDS = 0.0002
_SECONDS_WEIGHT = 0.1

_REQUEST = re.compile(rb"POST /v2/models/([^/?% ]+)(?:/versions/([0-9]+))?/infer HTTP/1\.1\r\n")
_LENGTH = b"\r\ncontent-length:"
_MAX_DIGITS = 9
# With one of them, where a request ends or what its answer does to the connection is not for us to say.
_OTHER_WAY = (b"\r\ntransfer-encoding", b"\r\nconnection", b"\r\nexpect", b"\r\nupgrade")


class TurnTaker(Protocol):
    """A connection whose request waits."""

    def take_turn(self) -> None:
        """The request's turn has come; nothing happens if its caller left."""


class LoadShedder:
    """Serves at once while there is time, and in order of arrival while there is not. On the thread of the loop."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server
        self._clock = server.clock
        self._line: deque[TurnTaker] = deque()
        self._is_round_open = False
        self._round_began_at = 0.0
        self._slice_began_at = 0.0
        self._served = 0
        self._seconds_each = _FIRST_SECONDS
        self._times_to_spare: dict[tuple[str, str], float] = {}
        self._full: set[tuple[str, str]] = set()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._refusals: dict[str, bytes] = {}

    def has_time(self) -> bool:
        """Whether there is time to serve at once what comes now."""
        if self._line:
            return False
        now = self._clock.now()
        if not self._is_round_open:
            self._is_round_open, self._round_began_at = True, now
            self._clock.call_soon(self._end_round)
        return now - self._round_began_at < SLICE_SECONDS

    def now(self) -> float:
        """In the seconds of the server's clock."""
        return self._clock.now()

    def note_refusal(self, model: str, version: str) -> None:
        """A request for that version was read and refused, because too much waits there."""
        if self._time_to_spare((model, version)) < 0:
            self._full.add((model, version))

    def refusal(self, data: bytes) -> bytes | None:
        """The whole answer to a request that would come too late; None if it may wait, or is none that can be told."""
        wait = len(self._line) * self._seconds_each
        is_long = wait > SLICE_SECONDS
        asked = whole_request(data) if is_long or self._full else None
        if asked is None or not (is_long or asked in self._full):
            return None
        if wait <= self._time_to_spare(asked):
            self._full.discard(asked)
            return None
        self._refused[asked] += 1
        return self._refusals.get(asked[0]) or self._refusal(asked[0])

    def queue(self, turn_taker: TurnTaker) -> None:
        """Let a request wait for its turn."""
        self._line.append(turn_taker)
        if len(self._line) == 1:
            self._slice_began_at, self._served = self._clock.now(), 0
            self._clock.call_soon(self._serve)

    def _time_to_spare(self, asked: tuple[str, str]) -> float:
        """As it was when the loop last looked; who is not there is told so by those who know why."""
        seconds = self._times_to_spare.get(asked)
        if seconds is None:
            try:
                seconds = self._server.time_to_spare(*asked)
            except Error:
                seconds = math.inf
            self._times_to_spare[asked] = seconds
        return seconds

    def _end_round(self) -> None:
        """All that was there when the loop last looked has been read."""
        self._is_round_open = False
        self._count_refusals()

    def _serve(self) -> None:
        """Serve for a slice; what a request takes is the time since the last slice, with all that the loop did."""
        now = self._clock.now()
        if self._served:
            each = (now - self._slice_began_at) / self._served
            self._seconds_each += _SECONDS_WEIGHT * (each - self._seconds_each)
        self._slice_began_at, self._served = now, 0
        while self._line and self._clock.now() - now < SLICE_SECONDS:
            self._served += 1
            self._line.popleft().take_turn()
        if self._line:
            self._clock.call_soon(self._serve)
        self._count_refusals()

    def _count_refusals(self) -> None:
        """Once for many; what they were judged by is over."""
        for (model, version), count in self._refused.items():
            self._server.count_refusals(model, version, count)
        self._refused.clear()
        self._times_to_spare.clear()

    def _refusal(self, model: str) -> bytes:
        text = f"model '{model}': more requests come than can be answered in time. Send fewer at once, or add servers."
        body = orjson.dumps({"error": text})
        head = (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
            f"retry-after: {RETRY_AFTER_SECONDS}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._refusals[model] = answer = head.encode() + body
        return answer


def whole_request(data: bytes) -> tuple[str, str] | None:
    """Model and version that an inference request asks for; None if the bytes are not plainly one and whole."""
    found = _REQUEST.match(data)
    end = data.find(b"\r\n\r\n", found.end() - 2) if found is not None else -1
    if found is None or end < 0 or not found[1].isascii():
        return None
    head = data[found.end() - 2 : end + 2].lower()
    _, _, rest = head.partition(_LENGTH)
    digits = rest[: rest.find(b"\r\n")].strip(b" \t")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or int(digits) != len(data) - end - 4 or _LENGTH in rest:
        return None
    if any(other in head for other in _OTHER_WAY):
        return None
    return found[1].decode("ascii"), (found[2] or b"").decode("ascii")
