"""uvicorn's protocol, with limits on what a peer may send before it is understood, and a short way to inference."""

from http import HTTPStatus
from typing import ClassVar, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.departures import Departures
from service.http.direct import DirectExchange, DirectInference
from service.http.incoming import HEADER_NAMES
from service.http.known_heads import Asked
from service.http.load_shedding import LoadShedder
from service.http.patience import Stage
from service.http.pieces import FIRST_PIECE_BYTES
from service.http.shedding_connection import SheddingConnection

# Four times what common proxies take; a head is kept in memory before anything can refuse it.
MAX_HEAD_BYTES = 1 << 16

# Between requests. Clients keep connections, and one that is closed under them costs them a request.
KEEP_ALIVE_SECONDS = 120

_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request line and headers are longer than {MAX_HEAD_BYTES} bytes; send less.",
)

_VERSIONS = ("1.1", "1.0")
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class LimitedProtocol(SheddingConnection):
    """One HTTP/1.1 connection: what is read from it, and which way it is answered."""

    _head_bytes = 0
    _header_bytes = 0
    _is_in_head = True
    _is_body_behind_upgrade = False
    _is_replayed = False
    _asked: Asked | None = None

    direct: ClassVar[DirectInference | None] = None
    """What answers inference without the application; `limited_protocol` sets it."""

    def data_received(self, data: bytes) -> None:
        if self._pieces and self._refusal is None:
            self._pieces.add(data)
            self.flow.pause_reading()
        else:
            super().data_received(data)

    def _take(self, data: bytes) -> None:
        patience = self._patience
        patience.heard_at = self.loop.time()
        patience.came_bytes += len(data)
        if self.direct is None or not self._expects_head():
            self._take_unknown(data)
        elif (known := self.direct.heads.find(data)) is not None:
            self._take_known(self.direct, *known)
        else:
            begun = self._begun
            self._take_unknown(data)
            if self._begun == begun + 1 and self._asked is not None:
                self.direct.heads.remember(data, self._asked)

    def _expects_head(self) -> bool:
        """Whether all that came before is parsed, and was whole."""
        return self._patience.stage is Stage.NEXT_REQUEST and not self._pieces

    def _take_known(self, direct: DirectInference, asked: Asked, body: memoryview) -> None:
        """Begin a request whose head the parser need not read again."""
        self._begun += 1
        self._is_in_head, self._head_bytes = False, 0
        self._patience.enter(Stage.NEXT_REQUEST)
        exchange = direct.exchange(asked, self, self.server_state.default_headers)
        exchange.body += body
        exchange.more_body = False
        exchange.came_at = self._came_at
        exchange.keep_alive = not self._is_leaving
        self._put_in_line(exchange)
        if self.flow.read_paused:
            self._watch_departure()

    def _take_unknown(self, data: bytes) -> None:
        if self._pieces or len(data) > FIRST_PIECE_BYTES:
            self._pieces.add(data)
            self._take_pieces()
        else:
            self._take_piece(data)

    def _take_piece(self, data: bytes) -> None:
        self._head_bytes += len(data) if self._is_in_head else 0
        self._parse(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(*_HEAD_TOO_LARGE)

    def _parse(self, data: bytes) -> None:
        """Feed the parser; where it stops behind a head that asks for an upgrade, a new one reads the body."""
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
        self._asked = None
        self._begun += 1
        self._is_in_head = True
        self._header_bytes = 0
        self._patience.enter(Stage.HEAD)
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
        if not self._is_in_head:
            # Behind the body: what the head did not say must not be taken for it (RFC 9110, 6.5.1).
            return
        self._names.append(name)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_replayed:
            return
        self._is_in_head, self._head_bytes = False, 0
        self._patience.enter(Stage.BODY)
        self._version = self.parser.get_http_version()
        if self._version not in _VERSIONS:
            # Any exception stops the parser, and comes back through `send_400_response`.
            raise ValueError(self._version)
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
        if self.flow.read_paused:
            self._watch_departure()

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
        self._patience.enter(Stage.NEXT_REQUEST)
        super().on_message_complete()

    def resume_writing(self) -> None:
        super().resume_writing()
        one: object = self._running
        if isinstance(one, DirectExchange):
            one.can_write()

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
        asked = self.direct.asked(parse_url(self.url).path, self.headers)
        if asked is None:
            return None
        exchange = self.direct.exchange(asked, self, self.server_state.default_headers)
        exchange.came_at = self._came_at
        exchange.keep_alive = self._version != "1.0" and self.parser.should_keep_alive()
        self._asked = asked if exchange.keep_alive else None
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
            raise ValueError(self._refusal)


def limited_protocol(
    max_connections: int,
    departures: Departures,
    direct: DirectInference | None = None,
    shedder: LoadShedder | None = None,
) -> type[LimitedProtocol]:
    """The protocol of one listener.

    Args:
        max_connections: connections at once, 0 for any number.
        departures: of the loop on which it listens.
        direct: what answers inference without the application; None leaves all to the application.
        shedder: where requests wait while the loop is busy; None lets them in as they come.
    """
    fields = {"max_connections": max_connections, "direct": direct, "departures": departures, "shedder": shedder}
    return type("LimitedProtocol", (LimitedProtocol,), fields)
