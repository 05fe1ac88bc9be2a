"""Requests that arrive when they arrive: an open-loop load with Poisson arrivals over HTTP.

A closed loop waits for its answers, so an overloaded server slows its own load down and never shows a collapse. Here
the next request is due whatever became of the others, and its latency counts from the moment it was due (Schroeder,
Wierman and Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006).

One thread over plain sockets: it shares the machine with the server, so it must cost little beside it.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What many clients together keep open, from the start on: to connect takes longer than to ask. A request that finds all
# of them busy waits, and its wait counts.
CONNECTIONS = 1024
_PATIENCE_SECONDS = 5.0
_END_OF_HEAD = b"\r\n\r\n"
_READ_BYTES = 1 << 16


@dataclass(slots=True)
class Outcome:
    """What became of all requests of one load that lasted so many seconds.

    Attributes:
        due: when each request was due, in seconds of a monotonic clock, ascending.
        done: when its answer was there; meaningless without a status.
        status: of its answer, 0 for none.
    """

    seconds: float
    due: NDArray[np.float64]
    done: NDArray[np.float64]
    status: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.due)

    def goodput(self, deadline_seconds: float) -> float:
        """Requests per second that were answered with outputs inside the deadline."""
        return float(np.sum((self.status == 200) & (self.done - self.due <= deadline_seconds))) / self.seconds

    def answered_ms(self) -> list[float]:
        """Latencies of what was answered with outputs, ascending."""
        return self._milliseconds(self.status == 200)

    def refused_ms(self) -> list[float]:
        """Latencies of what was answered with an error, ascending."""
        return self._milliseconds((self.status != 200) & (self.status != 0))

    @property
    def unanswered(self) -> int:
        return int(np.sum(self.status == 0))

    def _milliseconds(self, which: NDArray[np.bool_]) -> list[float]:
        return np.sort(1000 * (self.done - self.due)[which]).tolist()  # type: ignore[no-any-return]


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not ascending:
        return float("nan")
    return ascending[min(len(ascending) - 1, int(len(ascending) * percent / 100))]


def open_load(port: int, request: bytes, per_second: float, seconds: float, seed: int) -> Outcome:
    """Send a request over and over with exponential gaps; then wait a little for what is still out."""
    count = int(per_second * seconds * 1.2) + 100
    gaps = np.cumsum(np.random.default_rng(seed).exponential(1 / per_second, count))
    return _Generator(port, request, gaps[gaps < seconds], seconds).run()


class _Generator:
    """Connections to one server, and the requests that wait for one of them."""

    def __init__(self, port: int, request: bytes, offsets: NDArray[np.float64], seconds: float) -> None:
        self._port = port
        self._request = request
        self._offsets = offsets
        self._seconds = seconds
        self._done = [0.0] * len(offsets)
        self._status = [0] * len(offsets)
        self._answered = 0
        self._connections: dict[int, _Connection] = {}
        # In turn, so that none has nothing to say for so long that the server closes it under a request.
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()
        self._epoll = select.epoll()
        for _ in range(CONNECTIONS):
            self._connect()

    def run(self) -> Outcome:
        due = (self._offsets + time.monotonic()).tolist()
        count, asked = len(due), 0
        end = time.monotonic() + self._seconds + _PATIENCE_SECONDS
        while self._answered < count and (now := time.monotonic()) < end:
            while asked < count and due[asked] <= now:
                self._ask(asked)
                asked += 1
            self._hear((due[asked] if asked < count else end) - time.monotonic())
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
        done, status = np.array(self._done), np.array(self._status, np.int16)
        return Outcome(self._seconds, np.array(due), done, status)

    def _ask(self, number: int) -> None:
        if not self._idle and len(self._connections) < CONNECTIONS:
            # The server closed some that had nothing to say for long.
            self._connect()
        if self._idle:
            self._send(self._idle.popleft(), number)
        else:
            self._waiting.append(number)

    def _connect(self) -> None:
        connection = _Connection(self._port)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        self._idle.append(connection)

    def _hear(self, seconds: float) -> None:
        """Take what answers there are; wait for the first of them no longer than until the next request is due."""
        # epoll waits whole milliseconds; select, on the one descriptor of epoll itself, waits as long as it is told.
        if seconds > 0 and not select.select([self._epoll], [], [], seconds)[0]:
            return
        for descriptor, _ in self._epoll.poll(0):
            connection = self._connections[descriptor]
            status = connection.hear()
            if status is None:
                continue
            if connection.asked is not None and status:
                self._done[connection.asked] = time.monotonic()
                self._status[connection.asked] = status
            self._answered += connection.asked is not None
            connection.asked = None
            if connection.is_over:
                self._drop(connection)
            elif self._waiting:
                self._send(connection, self._waiting.popleft())
            else:
                self._idle.append(connection)

    def _send(self, connection: "_Connection", number: int) -> None:
        connection.asked = number
        try:
            connection.socket.send(self._request)
        except OSError:
            # Its end is heard with the next answers.
            connection.is_over = True

    def _drop(self, connection: "_Connection") -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()


class _Connection:
    """One request at a time; only the status and the length of an answer are read."""

    __slots__ = ("_received", "asked", "is_over", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.asked: int | None = None
        self.is_over = False
        self._received = b""

    def hear(self) -> int | None:
        """The status of an answer that is whole; 0 at an end without one; None while something is still to come."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.is_over = True
            return 0
        self._received += data
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return None
        head = self._received[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(self._received) < end + len(_END_OF_HEAD) + length:
            return None
        self._received = b""
        self.is_over = self.is_over or b"\r\nconnection: close" in head
        return int(head[9:12])
