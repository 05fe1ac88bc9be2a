"""Wait for the answers to a request, or for its caller to leave, whichever comes first."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import Message

from enginehouse.errors import Error, Overloaded
from service.request import Admitted, InferRequest, InferResponse, pace
from service.server import InferenceServer

# Answers that wait for a caller who reads slower than its model writes.
MAX_UNREAD = 1024
MAX_UNREAD_BYTES = 1 << 26
# From so many on a model that can wait with its next answers does, until there are so few.
_BEHIND, _BEHIND_BYTES, _CAUGHT_UP = 32, 1 << 22, 8


async def answer_of(server: InferenceServer, request: InferRequest, http_request: Request) -> InferResponse | Error:
    """The one answer. A caller that leaves takes its request out of the queue."""
    answer: asyncio.Future[InferResponse | Error] = asyncio.get_running_loop().create_future()
    admitted = server.infer(request, lambda result: None if answer.done() else answer.set_result(result))
    if admitted is None:
        return await answer
    with leaving(http_request, lambda: None if answer.done() else admitted.cancel()):
        try:
            return await answer
        except asyncio.CancelledError:
            admitted.cancel()
            raise


class Answers:
    """All answers to one request, in order, also those of a decoupled model."""

    def __init__(self, server: InferenceServer, request: InferRequest) -> None:
        self._unread: deque[InferResponse | Error] = deque()
        self._unread_bytes = 0
        self._arrived = asyncio.Event()
        self._is_last = False
        self._is_too_slow = False
        self._is_behind = False
        self._admitted: Admitted | None = None
        self._is_settled = False
        request.emit = self._add
        admitted = server.infer(request, self._take_last)
        if self._is_too_slow and admitted is not None:
            admitted.cancel()
        elif not self._is_settled:
            self._admitted = admitted

    async def next(self) -> InferResponse | Error | None:
        """The next answer; None behind the last one."""
        while not self._unread:
            if self._is_last:
                return None
            self._arrived.clear()
            try:
                await self._arrived.wait()
            except asyncio.CancelledError:
                self.leave()
                raise
        answer = self._unread.popleft()
        if isinstance(answer, InferResponse):
            self._unread_bytes -= _size(answer)
        if self._is_behind and len(self._unread) <= _CAUGHT_UP:
            self._pace(is_behind=False)
        return answer

    def leave(self) -> None:
        """Nobody reads any more."""
        if not self._is_last and self._admitted is not None:
            self._admitted.cancel()

    def _add(self, answer: InferResponse) -> None:
        if self._is_last:
            return
        size = _size(answer)
        if len(self._unread) >= MAX_UNREAD or (self._unread and self._unread_bytes + size > MAX_UNREAD_BYTES):
            self.leave()
            self._is_too_slow = True
            self._settle(Overloaded(f"{len(self._unread)} answers wait to be read; read faster, or ask for fewer."))
            return
        self._append(answer)
        self._arrived.set()
        if not self._is_behind and (len(self._unread) >= _BEHIND or self._unread_bytes >= _BEHIND_BYTES):
            self._pace(is_behind=True)

    def _pace(self, is_behind: bool) -> None:
        """Let a model wait with its next answer while the caller has many to read."""
        self._is_behind = is_behind
        pace(self._admitted, is_behind)

    def _append(self, answer: InferResponse | Error) -> None:
        self._unread.append(answer)
        if isinstance(answer, InferResponse):
            self._unread_bytes += _size(answer)

    def _take_last(self, answer: InferResponse | Error) -> None:
        # Each knows the other; without this, both would wait for the garbage collector.
        self._admitted, self._is_settled = None, True
        self._settle(answer)

    def _settle(self, answer: InferResponse | Error) -> None:
        if self._is_last:
            return
        # The end of a decoupled model says nothing more; the end of any other is its answer.
        if isinstance(answer, Error) or answer.outputs:
            self._append(answer)
        self._is_last = True
        self._arrived.set()


def _size(answer: InferResponse) -> int:
    return sum(len(wire.data) for wire in answer.outputs)


@contextmanager
def leaving(http_request: Request, leave: Callable[[], None]) -> Iterator[None]:
    """Call `leave` if the caller's connection goes meanwhile."""

    def gone_away(_: asyncio.Future[Message]) -> None:
        leave()

    # Behind its body a request has nothing more to say but that its connection is gone.
    gone = asyncio.ensure_future(http_request.receive())
    gone.add_done_callback(gone_away)
    try:
        yield
    finally:
        gone.remove_done_callback(gone_away)
        gone.cancel()
