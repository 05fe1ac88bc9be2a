"""Requests that arrive when they arrive: an open-loop load with Poisson arrivals over HTTP.

A closed loop waits for its answers, so an overloaded server slows its own load down and never shows a collapse. Here
the next request is due whatever became of the others, and its latency counts from the moment it was due (Schroeder,
Wierman and Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

# What many clients together keep open. A request that finds all of them busy waits, and its wait counts.
MAX_CONNECTIONS = 256
_PATIENCE_SECONDS = 5.0
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Asked:
    """One request: when it was due, when its answer was there, and the answer's status (0 for none yet)."""

    due: float
    done: float = 0.0
    status: int = 0

    @property
    def seconds(self) -> float:
        return self.done - self.due


@dataclass(slots=True)
class Outcome:
    """What became of all requests of one load that lasted so many seconds."""

    seconds: float
    asked: list[Asked] = field(default_factory=list)

    def goodput(self, deadline_seconds: float) -> float:
        """Requests per second that were answered with outputs inside the deadline."""
        return sum(one.status == 200 and one.seconds <= deadline_seconds for one in self.asked) / self.seconds

    def answered_ms(self) -> list[float]:
        """Latencies of what was answered with outputs, ascending."""
        return sorted(1000 * one.seconds for one in self.asked if one.status == 200)

    def refused_ms(self) -> list[float]:
        """Latencies of what was answered with an error, ascending."""
        return sorted(1000 * one.seconds for one in self.asked if one.status not in (0, 200))

    @property
    def unanswered(self) -> int:
        return sum(one.status == 0 for one in self.asked)


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not ascending:
        return float("nan")
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]


def open_load(port: int, request: bytes, per_second: float, seconds: float, seed: int) -> Outcome:
    """Send a request over and over with exponential gaps; then wait a little for what is still out."""
    return uvloop.run(_Generator(port, request, seconds).run(per_second, seed))


class _Generator:
    """Connections to one server, and the requests that wait for one of them."""

    def __init__(self, port: int, request: bytes, seconds: float) -> None:
        self._port = port
        self._request = request
        self._outcome = Outcome(seconds)
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[Asked] = deque()
        self._connections: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self, per_second: float, seed: int) -> Outcome:
        loop = asyncio.get_running_loop()
        gaps = np.random.default_rng(seed)
        begun = loop.time()
        due = begun + gaps.exponential(1 / per_second)
        while due < begun + self._outcome.seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._ask(Asked(due))
            due += gaps.exponential(1 / per_second)
        end = loop.time() + _PATIENCE_SECONDS
        while self._outcome.unanswered and loop.time() < end:
            await asyncio.sleep(0.05)
        for task in self._opening:
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        return self._outcome

    def take(self, connection: "_Connection") -> None:
        """A connection has nothing to do: it sends the request that waits longest."""
        if self._waiting:
            connection.send(self._waiting.popleft(), self._request)
        else:
            self._idle.append(connection)

    def lose(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _ask(self, asked: Asked) -> None:
        self._outcome.asked.append(asked)
        if self._idle:
            self._idle.pop().send(asked, self._request)
            return
        self._waiting.append(asked)
        if len(self._connections) + len(self._opening) < MAX_CONNECTIONS:
            task = asyncio.ensure_future(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            return
        self._connections.add(connection)
        self.take(connection)


class _Connection(asyncio.Protocol):
    """One request at a time; only the status and the length of an answer are read."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._asked: Asked | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by contract, not by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, asked: Asked, request: bytes) -> None:
        self._asked = asked
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(self._received) < end + len(_END_OF_HEAD) + length:
            return
        self._received.clear()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.done = asyncio.get_running_loop().time()
            asked.status = int(head[9:12])
        if b"\r\nconnection: close" in head:
            self._transport.close()
        else:
            self._generator.take(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._generator.lose(self)
