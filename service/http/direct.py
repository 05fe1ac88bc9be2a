"""`POST …/infer` answered in the protocol itself: no framework, no task and no future between a request and its answer.

It does what `infer.py` does, for requests that need nothing more: a body of known length that is not packed, and an
answer that need not be packed either. Everything else takes the application's route, which tests compare with this.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

import orjson

from enginehouse.errors import Error, Overloaded
from service.codecs.json_codec import OutputForm
from service.codecs.timing import server_timing
from service.http.incoming import HEADER_LENGTH, TIMEOUT, deadline, header_length
from service.http.inference_body import body_from_response, refuse_decoupled, request_from_body
from service.http.known_heads import Asked, KnownHeads
from service.http.render import retry_after
from service.request import Admitted, InferResponse
from service.server import InferenceServer
from service.status import status_of

_log = logging.getLogger(__name__)

_PATH = re.compile(rb"/v2/models/([^/]+)(?:/versions/([0-9]+))?/infer")
_OTHER_WAY = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))
_UNPACKED = (b"", b"identity", b"*/*")
_JSON, _BINARY = b"application/json", b"application/octet-stream"
# Beyond it a body is not copied once more to be written in one piece.
_JOINED_BYTES = 1 << 16


class Flow(Protocol):
    """Whether the peer reads what is written."""

    write_paused: bool


class Connection(Protocol):
    """The connection that a request came on, as far as its answer needs it."""

    @property
    def transport(self) -> asyncio.Transport: ...

    @property
    def flow(self) -> Flow: ...

    def on_response_complete(self) -> None: ...

    def note_refusal(self, model: str, version: str) -> None:
        """Too much waits for an answer of that version, so that more like it may be refused unread."""


class DirectInference:
    """Recognizes the requests that it can answer.

    Args:
        server: what answers.
        max_body_bytes: a longer body goes the other way, which refuses it.

    Attributes:
        heads: of requests that it recognized.
    """

    def __init__(self, server: InferenceServer, max_body_bytes: int) -> None:
        self.heads = KnownHeads()
        self._server = server
        self._max_body_bytes = max_body_bytes

    def asked(self, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Asked | None:
        """What a posted request asks; None for one that takes the application's route.

        Args:
            path: as it was sent, without its query.
            headers: with names in lower case.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        fields = dict(headers)
        length = fields.get(b"content-length", b"")
        if (
            len(fields) != len(headers)
            or not _OTHER_WAY.isdisjoint(fields)
            or fields.get(b"accept-encoding", b"") not in _UNPACKED
            or not length.isdigit()
            or int(length) > self._max_body_bytes
        ):
            return None
        model = unquote(found[1].decode("ascii"))
        if "/" in model:
            return None
        version = (found[2] or b"").decode("ascii")
        return Asked(model, version, _text(fields, HEADER_LENGTH), _text(fields, TIMEOUT), int(length))

    def exchange(
        self, asked: Asked, connection: Connection, default_headers: Sequence[tuple[bytes, bytes]]
    ) -> "DirectExchange":
        """What stands for a request until it is answered.

        Args:
            asked: what its head says.
            connection: where the answer goes.
            default_headers: of every answer.
        """
        return DirectExchange(self._server, asked, connection, default_headers)


class DirectExchange:
    """One request and its answer. uvicorn's protocol keeps it where it keeps its own cycles, and sets the same fields.

    Attributes:
        body: as much of it as came.
        more_body: whether some is still to come.
        disconnected: the caller left.
        response_complete: everything is written, and the peer reads it.
        keep_alive: whether the connection goes on behind this answer.
        came_at: when it came, in the seconds of the server's clock, if it waited before anybody looked at it.
    """

    def __init__(
        self,
        server: InferenceServer,
        asked: Asked,
        connection: Connection,
        default_headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = True
        self.came_at: float | None = None
        self._server = server
        self._asked = asked
        self._connection = connection
        self._default_headers = default_headers
        self._form = OutputForm(False, {})
        self._admitted: Admitted | None = None
        self._is_first = False
        self._has_begun = False
        self._is_written = False

    @property
    def response_started(self) -> bool:
        return self._is_written

    @property
    def message_event(self) -> "DirectExchange":
        """The protocol sets an event when something changed; here that something is looked at."""
        return self

    def set(self) -> None:
        """A piece of the body came, or the caller left."""
        if self.disconnected:
            if self._admitted is not None:
                self._admitted.cancel()
        elif self._is_first and not self.more_body and not self._has_begun:
            self._has_begun = True
            self._begin()

    def come_first(self) -> None:
        """Every request before this one on the connection has its answer."""
        self._is_first = True
        self.set()

    def can_write(self) -> None:
        """The peer has read most of what was written."""
        if self._is_written and not self.response_complete:
            self._complete()

    def _begin(self) -> None:
        server, asked = self._server, self._asked
        begun_at = server.clock.now()
        received_at = begun_at if self.came_at is None else self.came_at
        try:
            length = header_length(asked.header_length)
            body = memoryview(self.body).toreadonly()
            # The connection keeps its last exchange, which must not keep a body that nobody needs any more.
            self.body = bytearray()
            request, self._form = request_from_body(server, body, length, asked.model, asked.version)
            request.received_at, request.unread_seconds = received_at, begun_at - received_at
            request.deadline = deadline(asked.timeout, received_at)
            refuse_decoupled(server, asked.model, asked.version)
            request.decoded_at = server.clock.now()
        except Error as problem:
            self._write_error(problem)
            return
        except Exception as problem:
            self._write_unexpected(problem)
            return
        admitted = server.infer(request, self._settle)
        if not self._is_written:
            self._admitted = admitted

    def _settle(self, result: InferResponse | Error) -> None:
        self._admitted = None
        if self.disconnected or self._connection.transport.is_closing():
            self.response_complete = True
            return
        try:
            if isinstance(result, Error):
                self._write_error(result)
            else:
                self._write_response(result)
        except Error as problem:
            self._write_error(problem)
        except Exception as problem:
            self._write_unexpected(problem)

    def _write_response(self, result: InferResponse) -> None:
        started = self._server.clock.now()
        header, chunks = body_from_response(self._server, result, self._form)
        seconds = self._server.clock.now() - started
        self._server.count_encode(result.model_name, result.model_version, seconds)
        more = [(b"server-timing", server_timing(result.timings, seconds).encode())]
        if chunks:
            more.append((b"inference-header-content-length", str(len(header)).encode()))
        self._write(HTTPStatus.OK, _BINARY if chunks else _JSON, more, [header, *chunks])

    def _write_error(self, problem: Error) -> None:
        if isinstance(problem, Overloaded):
            self._connection.note_refusal(self._asked.model, self._asked.version)
        status = HTTPStatus(status_of(problem).http)
        more = [(name.lower().encode(), text.encode()) for name, text in retry_after(problem).items()]
        self._write(status, _JSON, more, [orjson.dumps({"error": str(problem)})])

    def _write_unexpected(self, problem: Exception) -> None:
        _log.error("a request to model '%s' could not be answered", self._asked.model, exc_info=problem)
        text = f"internal error: {type(problem).__name__}: {problem}"
        self._write(HTTPStatus.INTERNAL_SERVER_ERROR, _JSON, [], [orjson.dumps({"error": text})])

    def _write(
        self,
        status: HTTPStatus,
        content_type: bytes,
        more: Sequence[tuple[bytes, bytes]],
        chunks: Sequence[bytes | memoryview],
    ) -> None:
        size = sum(map(len, chunks))
        lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
        lines += [b"%s: %s" % header for header in (*self._default_headers, *more)]
        lines += [b"content-type: " + content_type, b"content-length: %d" % size]
        if not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join((*lines, b"", b""))
        transport = self._connection.transport
        if size < _JOINED_BYTES:
            transport.write(b"".join((head, *chunks)))
        else:
            transport.writelines((head, *chunks))
        self._is_written = True
        if not self._connection.flow.write_paused:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


def _text(fields: dict[bytes, bytes], name: str) -> str | None:
    value = fields.get(name.encode())
    return None if value is None else value.decode("latin-1")
