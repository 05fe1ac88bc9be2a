"""The life of one HTTP connection on uvicorn's protocol: its limits, its line of requests, and its end."""

import asyncio
from http import HTTPStatus
from typing import ClassVar, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.departures import Departures
from service.http.incoming import NOTHING_YET
from service.http.patience import Patience, Stage
from service.http.pieces import MAX_IN_LINE, Pieces
from service.http.render import RETRY_AFTER_SECONDS

# At the end, idle connections stay open this long: a request that is on its way is answered, and told to come no more.
LINGER_SECONDS = 0.3

# What a connection beyond the limit may take to say what it wants, before it is told that there is no room.
REFUSAL_SECONDS = 1.0

# A peer that sent its whole request and ends its side may have left, or may wait: it is answered at once if that takes
# no longer, and else has to hear, once, that there is more to come (RFC 9110, 15.2), which only one that left refuses.
HALF_CLOSED_SECONDS = 0.02
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"

Refusal = tuple[HTTPStatus, str]


class Connection(HttpToolsProtocol):
    """Answers its requests one after the other, for as long as there is a peer who hears it.

    What it refuses, it refuses in JSON, like everything else here.
    """

    max_connections = 0
    """Connections at once, 0 for any number."""
    departures: ClassVar[Departures]
    """Who hears that a peer left whom nobody reads from."""

    _running: RequestResponseCycle | None = None
    _refusal: Refusal | None = None
    _is_leaving = False
    _has_ended_its_side = False
    _watched = -1
    _begun = 0
    _is_taking = False
    _ends_behind_pieces = False
    _pieces: Pieces
    _patience: Patience

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._pieces = Pieces()
        self._patience = Patience(self.loop, transport, self.flow, self.timeout_keep_alive, self._is_ours, self._refuse)
        if self.max_connections and len(self.connections) > self.max_connections:
            # Its request is heard first: a connection that is closed with unread bytes may lose its answer.
            message = f"there are {self.max_connections} connections already; --http-max-connections allows no more."
            self._refusal = (HTTPStatus.SERVICE_UNAVAILABLE, message)
            self.loop.call_later(REFUSAL_SECONDS, self._refuse, *self._refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.stop()
        self._pieces.clear()
        self.departures.forget(self._watched)
        # The request at work is not the newest one, and those between have not begun: none is for anybody any more.
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        # A request knows its connection: what is gone should not wait for the collector, which comes seldom.
        self.cycle = None  # type: ignore[assignment]
        self._running = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """The peer sends no more; whether the connection stays open for what it asked before."""
        self._ends_behind_pieces = bool(self._pieces)
        if self._ends_behind_pieces:
            return True
        if self._refusal is not None:
            self._refuse(*self._refusal)
        elif self._patience.stage is not Stage.NEXT_REQUEST:
            self._refuse(HTTPStatus.BAD_REQUEST, "the connection ended before the whole request came.")
        if self.transport.is_closing():
            return True
        if not self._is_at_work():
            return False
        self.cycle.keep_alive = False
        self._watch_departure()
        self._depart(is_gone=False)
        return True

    def on_response_complete(self) -> None:
        """As uvicorn's, with one timer for all that a peer keeps waiting."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._patience.must_read()
            return
        self._patience.answered()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._pieces:
            self.flow.pause_reading()
            self._take_pieces_soon()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience.must_read()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._patience.has_read()

    def shutdown(self) -> None:
        """Called once when the server ends: idle connections linger, busy ones end with their answer."""
        self._is_leaving = True
        if self._is_at_work():
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LINGER_SECONDS, self._leave_if_idle)

    def _take_piece(self, data: bytes) -> None:
        """Parse it."""
        raise NotImplementedError

    def _take_pieces(self) -> None:
        """Go on with what came, until several requests began at once or many wait: others have their turn between."""
        self._is_taking = True
        while self._pieces and len(self.pipeline) < MAX_IN_LINE and not self.transport.is_closing():
            before = self._begun
            self._take_piece(self._pieces.next())
            is_dense = self._begun > before + 1
            self._pieces.grow(is_dense)
            if is_dense:
                break
        self._is_taking = False
        if self.transport.is_closing():
            self._pieces.clear()
        elif self._pieces:
            self.flow.pause_reading()
            if len(self.pipeline) < MAX_IN_LINE:
                self._take_pieces_soon()
        elif self._ends_behind_pieces:
            if not self.eof_received():
                self.transport.close()
        elif not self.pipeline:
            # The rest of the request may be still to come.
            self.flow.resume_reading()

    def _take_pieces_soon(self) -> None:
        if not self._is_taking:
            self._is_taking = True
            self.loop.call_soon(self._take_pieces)

    def _is_at_work(self) -> bool:
        """Whether a request waits for its answer, or for the rest of it to be read."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_ours(self) -> bool:
        """Whether the peer waits for us."""
        return self._is_at_work()

    def _leave_if_idle(self) -> None:
        if not self._is_ours():
            self.transport.close()

    def _watch_departure(self) -> None:
        if self._watched < 0:
            self._watched = self.transport.get_extra_info("socket").fileno()
            self.departures.watch(self._watched, self._depart)

    def _depart(self, is_gone: bool) -> None:
        """The peer will send no more, or is gone."""
        if self.transport.is_closing():
            return
        if is_gone:
            self.transport.abort()
        elif not self._has_ended_its_side:
            self._has_ended_its_side = True
            self.loop.call_later(HALF_CLOSED_SECONDS, self._find_out_whether_it_left)

    def _find_out_whether_it_left(self) -> None:
        one = self._running
        if self.transport.is_closing() or one is None or one.response_complete:
            return
        if one.response_started:
            # Of an answer of known length the rest is on its way, which finds out as well.
            scope = one.scope if isinstance(one, RequestResponseCycle) else {}
            nothing = cast("dict[str, object]", scope).get(NOTHING_YET)
            if isinstance(nothing, bytes):
                self.transport.write(b"%x\r\n%b\r\n" % (len(nothing), nothing))
        elif self.parser.get_http_version() != "1.0":
            self.transport.write(INTERIM)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        if self.transport.is_closing() or self._ends_behind_its_line():
            return
        body = orjson.dumps({"error": message})
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *([f"retry-after: {RETRY_AFTER_SECONDS}"] if status is HTTPStatus.SERVICE_UNAVAILABLE else []),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
        self._patience.must_read()

    def _ends_behind_its_line(self) -> bool:
        """Whether whole requests wait for answers; a refusal would be taken for one, so the connection just ends."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete or last.more_body:
            return False
        last.keep_alive = False
        self.cycle = last
        self.flow.pause_reading()
        self._watch_departure()
        return True
