"""uvicorn's protocol, with limits on what a peer may send before it is understood, and an end that loses nothing."""

import asyncio
from http import HTTPStatus
from typing import ClassVar, cast

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.direct import DirectExchange, DirectInference
from service.http.incoming import HEADER_NAMES
from service.http.render import RETRY_AFTER_SECONDS

# Four times what common proxies take; a head is kept in memory before anything can refuse it.
MAX_HEAD_BYTES = 1 << 16

# A peer that began a request, or only a connection, and then sends nothing.
STALL_SECONDS = 30.0

# Between requests. Clients keep connections, and one that is closed under them costs them a request.
KEEP_ALIVE_SECONDS = 120

# At the end, idle connections stay open this long: a request that is on its way is answered, and told to come no more.
LINGER_SECONDS = 0.3

_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request line and headers are longer than {MAX_HEAD_BYTES} bytes; send less.",
)

# What a connection beyond the limit may take to say what it wants, before it is told that there is no room.
REFUSAL_SECONDS = 1.0

_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class LimitedProtocol(HttpToolsProtocol):
    """One HTTP/1.1 connection. What it refuses, it refuses in JSON, like everything else here."""

    _head_bytes = 0
    _header_bytes = 0
    _has_begun = False
    _is_in_head = True
    _is_whole = False
    _is_leaving = False
    _running: RequestResponseCycle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _refusal: tuple[HTTPStatus, str] | None = None
    _is_body_behind_upgrade = False
    _is_replayed = False

    max_connections = 0
    """Connections at once, 0 for any number; `limited_protocol` sets it."""
    direct: ClassVar[DirectInference | None] = None
    """What answers inference without the application; `limited_protocol` sets it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.max_connections and len(self.connections) > self.max_connections:
            # Its request is heard first: a connection that is closed with unread bytes may lose its answer.
            message = f"there are {self.max_connections} connections already; --http-max-connections allows no more."
            self._refusal = (HTTPStatus.SERVICE_UNAVAILABLE, message)
            self._stall_timer = self.loop.call_later(REFUSAL_SECONDS, self._refuse, *self._refusal)
            return
        self._watch_for_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        # With pipelining, the request at work is not the newest one, and would not hear that its caller left.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._refuse(*self._refusal)
            return
        self._has_begun = True
        self._head_bytes += len(data) if self._is_in_head else 0
        self._parse(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_HEAD_TOO_LARGE)
        self._watch_for_stall()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; where it stops behind a head that asks for an upgrade, a new one reads the body."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as stop:
            if self._is_body_behind_upgrade:
                self._is_body_behind_upgrade = False
                self._start_over_with_body(data[stop.args[0] :])
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _start_over_with_body(self, rest: bytes) -> None:
        """Let a new parser read a head that says only how long the body is, unheard, and then the body."""
        head = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers if name in _BODY_HEADERS)
        self.parser = HttpRequestParser(self)
        self._is_replayed = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
        finally:
            self._is_replayed = False
        self._parse(rest)

    def on_message_begin(self) -> None:
        if self._is_replayed:
            return
        self._names: list[bytes] = []
        self._is_in_head, self._is_whole = True, False
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_replayed:
            return
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_replayed:
            return
        self._count_header(len(name) + len(value))
        self._names.append(name)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_replayed:
            return
        self._is_in_head, self._head_bytes = False, 0
        is_upgrade = self.parser.should_upgrade()
        has_body = any(name in _BODY_HEADERS and value != b"0" for name, value in self.headers)
        self._is_body_behind_upgrade = is_upgrade and has_body
        cast("dict[str, object]", self.scope)[HEADER_NAMES] = self._names
        exchange = None if is_upgrade else self._exchange()
        if exchange is not None:
            self._put_in_line(exchange)
        else:
            super().on_headers_complete()
        if self._is_leaving or (is_upgrade and not has_body):
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        one: object = self.cycle
        if isinstance(one, DirectExchange):
            # Its length is known and within the limit, so there is no need to slow the peer down.
            one.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_body_behind_upgrade:
            return
        self._is_whole, self._has_begun = True, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that waited behind this one has its whole time from here on.
        self._watch_for_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        one: object = self._running
        if isinstance(one, DirectExchange):
            one.can_write()

    def shutdown(self) -> None:
        """Called once when the server ends: idle connections linger, busy ones end with their answer."""
        self._is_leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LINGER_SECONDS, self._leave_if_idle)

    def send_400_response(self, msg: str) -> None:
        """Called for what the parser cannot read, and for what was refused while it read."""
        status, message = self._refusal or (HTTPStatus.BAD_REQUEST, f"{msg} HTTP/1.1 is expected.")
        self._refuse(status, message)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        one: object = cycle
        if isinstance(one, DirectExchange):
            # It waited behind another; answered at once, a long line of them would nest one in the other.
            self.loop.call_soon(one.come_first)
        else:
            super()._start_asgi_task(cycle, app)

    def _exchange(self) -> DirectExchange | None:
        if self.direct is None or self.parser.get_method() != b"POST":
            return None
        path = parse_url(self.url).path
        exchange = self.direct.exchange(path, self.headers, self, self.server_state.default_headers)
        if exchange is not None:
            exchange.keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        return exchange

    def _put_in_line(self, exchange: DirectExchange) -> None:
        """As uvicorn does with its own: requests of one connection are answered one after the other."""
        before, self.cycle = self.cycle, cast(RequestResponseCycle, exchange)
        if before is None or before.response_complete:
            self._running = self.cycle
            exchange.come_first()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _should_upgrade(self) -> bool:
        """Never: a client that asks for another protocol is answered in this one."""
        return False

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEAD_BYTES:
            self._refusal = _HEAD_TOO_LARGE
            # Any exception stops the parser, and comes back through `send_400_response`.
            raise ValueError(self._refusal)

    def _watch_for_stall(self) -> None:
        """Some timer runs whenever it is the peer's turn, also when it sent something that begins no request."""
        self._stop_watching()
        if self.transport.is_closing():
            return
        is_idle = self._is_whole or (self.cycle is not None and self.cycle.response_complete)
        if not is_idle:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._give_up)
        elif self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_watching(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _give_up(self) -> None:
        if self.flow.read_paused:
            # It is we who do not listen: an earlier request of this connection is still at work.
            self._watch_for_stall()
            return
        if not self._has_begun:
            self.transport.close()
            return
        message = f"nothing came for {STALL_SECONDS:g} seconds, and the request is not whole."
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, message)

    def _leave_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        if self.transport.is_closing():
            return
        if self._running is not None and not self._running.response_complete and not self._running.more_body:
            # A whole request is at work; its caller would take this for its answer. It ends the connection instead.
            self._running.keep_alive = False
            self.flow.pause_reading()
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


def limited_protocol(max_connections: int, direct: DirectInference | None = None) -> type[LimitedProtocol]:
    """The protocol of one listener.

    Args:
        max_connections: connections at once, 0 for any number.
        direct: what answers inference without the application; None leaves all to the application.
    """
    return type("LimitedProtocol", (LimitedProtocol,), {"max_connections": max_connections, "direct": direct})
