"""How long a peer may keep its connection waiting: for the rest of a request, and for its answers to be read."""

import asyncio
import fcntl
import logging
import struct
import termios
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Protocol

# A peer that began a request, or only a connection, and then sends nothing; and the time for a whole head.
STALL_SECONDS = 30.0

# A peer that leaves its answer unread: the connection is dropped, and what was kept for it is free.
WRITE_STALL_SECONDS = 30.0

# Slower than any network that one would ask a model over; with less, a peer keeps a connection, not a conversation.
# IIS and Kestrel ask for as much, of both directions.
MIN_BYTES_PER_SECOND = 240

_log = logging.getLogger(__name__)


class Stage(Enum):
    """What a peer is about to send."""

    NEXT_REQUEST = 0
    HEAD = 1
    BODY = 2


class Flow(Protocol):
    """Who listens to whom."""

    read_paused: bool
    write_paused: bool


class Patience:
    """The limits of one connection, by one timer that runs all its life and looks now and then.

    What happens on the connection only writes down that it did, which costs a request no timer.

    Args:
        transport: of the connection.
        flow: of the connection.
        keep_alive_seconds: that a connection stays open behind an answer.
        is_ours: whether a request of the connection waits for its answer.
        refuse: tells the peer that its request did not come.
    """

    __slots__ = (
        "_answered", "_flow", "_is_ours", "_is_over", "_keep_alive_seconds", "_loop", "_refuse", "_timer", "_transport",
        "_unsent", "_unsent_at", "came_bytes", "heard_at", "since", "stage",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        flow: Flow,
        keep_alive_seconds: float,
        is_ours: Callable[[], bool],
        refuse: Callable[[HTTPStatus, str], None],
    ) -> None:
        self.stage = Stage.NEXT_REQUEST
        self.since = self.heard_at = loop.time()
        self.came_bytes = 0
        self._loop = loop
        self._transport = transport
        self._flow = flow
        self._keep_alive_seconds = keep_alive_seconds
        self._is_ours = is_ours
        self._refuse = refuse
        self._is_over = False
        self._answered = False
        self._unsent: int | None = None
        self._unsent_at = 0.0
        self._timer = loop.call_later(STALL_SECONDS, self._look)

    def enter(self, stage: Stage) -> None:
        """What just came begins something, for which the peer has its whole time."""
        self.stage = stage
        self.since = self.heard_at
        self.came_bytes = 0

    def answered(self) -> None:
        """It is the peer's turn again, also where it was not heard while we were busy."""
        self._answered = True
        self.since = self.heard_at = self._loop.time()
        self.came_bytes = 0
        if not self._flow.write_paused:
            self._unsent = None

    def must_read(self) -> None:
        """More is written than the peer reads, or the connection closes with what is written."""
        if self._unsent is None:
            self._unsent, self._unsent_at = self._bytes_on_the_way(), self._loop.time()
            self._look_again(self._unsent_at + min(STALL_SECONDS, WRITE_STALL_SECONDS))

    def has_read(self) -> None:
        """Most of what was written is on its way."""
        if not self._transport.is_closing():
            self._unsent = None

    def stop(self) -> None:
        """The connection is gone."""
        self._is_over = True
        self._timer.cancel()
        # They know the connection, which knows its patience.
        del self._is_ours, self._refuse

    def _look(self) -> None:
        now = self._loop.time()
        due = now + min(STALL_SECONDS, WRITE_STALL_SECONDS)
        if self._transport.is_closing():
            self.must_read()
        else:
            due = min(due, self._look_at_reading(now))
        if self._unsent is not None:
            due = min(due, self._look_at_writing(self._unsent, now))
        self._look_again(due)

    def _look_again(self, due: float) -> None:
        self._timer.cancel()
        if not self._is_over:
            self._timer = self._loop.call_at(due, self._look)

    def _look_at_reading(self, now: float) -> float:
        """End what the peer does not go on with; else say when to look again."""
        if self._flow.read_paused:
            # It is we who do not listen.
            self.since = self.heard_at = now
            self.came_bytes = 0
            return now + STALL_SECONDS
        if self.stage is Stage.NEXT_REQUEST:
            return self._look_at_idling(now)
        if now >= self.heard_at + STALL_SECONDS:
            self._refuse_late(f"nothing came for {STALL_SECONDS:g} seconds")
        elif now >= self.since + STALL_SECONDS:
            if self.stage is Stage.HEAD:
                self._refuse_late(f"its head did not come within {STALL_SECONDS:g} seconds")
            elif self.came_bytes < MIN_BYTES_PER_SECOND * (now - self.since):
                self._refuse_late(f"fewer than {MIN_BYTES_PER_SECOND} bytes came in a second")
            self.since, self.came_bytes = now, 0
        return min(self.since, self.heard_at) + STALL_SECONDS

    def _look_at_idling(self, now: float) -> float:
        if self._is_ours():
            return now + STALL_SECONDS
        if self._transport.get_write_buffer_size():
            self.must_read()
        due = self.since + (self._keep_alive_seconds if self._answered else STALL_SECONDS)
        if now >= due:
            self._transport.close()
        return due if now < due else now + STALL_SECONDS

    def _look_at_writing(self, unsent: int, now: float) -> float:
        """Drop a connection whose peer does not read; else say when to look again."""
        due = self._unsent_at + WRITE_STALL_SECONDS
        if now < due:
            return due
        left = self._bytes_on_the_way()
        if unsent - left < MIN_BYTES_PER_SECOND * (now - self._unsent_at):
            _log.warning(
                "a connection of %s is dropped: it left %d bytes of its answer unread for %g seconds",
                self._transport.get_extra_info("peername"),
                left,
                now - self._unsent_at,
            )
            self._transport.abort()
        self._unsent, self._unsent_at = left, now
        return now + WRITE_STALL_SECONDS

    def _bytes_on_the_way(self) -> int:
        """Written and not yet with the peer, also what the kernel keeps (tcp(7), SIOCOUTQ)."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return 0
        kept = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size() + int(struct.unpack("i", kept)[0])

    def _refuse_late(self, what: str) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"{what}, and the request is not whole.")
