"""A connection whose requests may have to wait while the loop is busy."""

import asyncio
from typing import ClassVar

from service.http.connection import INTERIM, Connection
from service.http.load_shedding import LoadShedder, whole_request
from service.http.patience import Stage


class SheddingConnection(Connection):
    """Lets in what comes, or lets it wait for its turn, or hands out the refusal of one that would come too late."""

    shedder: ClassVar[LoadShedder | None] = None
    """Where requests wait while the loop is busy; None lets them in as they come."""

    _waiting: list[tuple[float, bytes]]
    _came_at: float | None = None
    _ends_behind_waiting = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = []

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting = []
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._refuse(*self._refusal)
        elif self.shedder is None or not self._must_wait(self.shedder, data):
            self._take(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        if not self._waiting:
            return super().eof_received()
        self._ends_behind_waiting = True
        self._watch_departure()
        self._depart(is_gone=False)
        return True

    def take_turn(self) -> None:
        """What waited has its turn."""
        waited, self._waiting = self._waiting, []
        for came_at, data in waited:
            self._came_at = came_at
            self._take(data)
        self._came_at = None
        if waited and self._ends_behind_waiting:
            if not super().eof_received():
                self.transport.close()
        elif len(waited) > 1 and not self.pipeline and not self._pieces:
            # The rest of the request may be still to come.
            self.flow.resume_reading()

    def note_refusal(self, model: str, version: str) -> None:
        if self.shedder is not None:
            self.shedder.note_refusal(model, version)

    def _must_wait(self, shedder: LoadShedder, data: bytes) -> bool:
        """Whether what came waits for its turn, or was refused."""
        if self._waiting:
            # The rest of what waits: enough of it is kept.
            self._waiting.append((self._waiting[0][0], data))
            self.flow.pause_reading()
            return True
        if self._patience.stage is not Stage.NEXT_REQUEST or self._is_at_work():
            return False
        has_time = shedder.has_time()
        # Who leaves answers unread is given no more of them than one request at a time makes.
        answer = None if self.flow.write_paused else shedder.refusal(data)
        if answer is None and has_time:
            return False
        if answer is None:
            self._waiting.append((shedder.now(), data))
            shedder.queue(self)
        else:
            self.transport.write(answer)
            self._patience.answered()
        return True

    def _take(self, data: bytes) -> None:
        """Read what came."""
        raise NotImplementedError

    def _is_ours(self) -> bool:
        return bool(self._waiting) or super()._is_ours()

    def _find_out_whether_it_left(self) -> None:
        if not self._waiting:
            super()._find_out_whether_it_left()
        elif whole_request(self._waiting[0][1]) is not None:
            self.transport.write(INTERIM)
