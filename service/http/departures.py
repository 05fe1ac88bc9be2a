"""Hear that peers are gone from connections that nobody reads from: the loop tells it only to those who read.

One epoll instance watches them all and is itself what the loop watches (epoll(7): an instance can be polled).
"""

import asyncio
import select
from collections.abc import Callable

_GONE = select.EPOLLERR | select.EPOLLHUP

Departed = Callable[[bool], None]


class Departures:
    """The peers of one loop, from the first that is watched until `close`."""

    def __init__(self) -> None:
        self._watched: dict[int, Departed] = {}
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, descriptor: int, departed: Departed) -> None:
        """Call `departed(False)` when the peer will send no more, and `departed(True)` when it is gone altogether."""
        if descriptor in self._watched:
            return
        self._watched[descriptor] = departed
        # Told once for each: what has said its last stays readable for ever.
        self._opened().register(descriptor, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, descriptor: int) -> None:
        """Call it before the descriptor is closed: another connection may get its number."""
        if self._watched.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._watched.clear()

    def _opened(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._hear, self._epoll)
        return self._epoll

    def _hear(self, epoll: select.epoll) -> None:
        for descriptor, events in epoll.poll(0):
            departed = self._watched.get(descriptor)
            if departed is not None:
                departed(bool(events & _GONE))
