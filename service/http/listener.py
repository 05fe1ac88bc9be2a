"""A uvicorn server on the loop of the program, which leaves the signals to it."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from enginehouse.errors import NotReady
from service.http.departures import Departures
from service.http.direct import DirectInference
from service.http.load_shedding import LoadShedder
from service.http.protocol import KEEP_ALIVE_SECONDS, limited_protocol
from service.shared_port import claim_port

MARGIN_SECONDS = 0.2
_BACKLOG = 2048

_log = logging.getLogger(__name__)


class HttpListener:
    """Listens from the moment it is made, or once it is started on a port that is shared with other servers.

    Raises:
        NotReady: the port is taken.
    """

    def __init__(
        self,
        app: FastAPI,
        address: str,
        port: int,
        grace_seconds: float,
        max_connections: int = 0,
        direct: DirectInference | None = None,
        shedder: LoadShedder | None = None,
        is_port_shared: bool = False,
    ) -> None:
        self._socket = claim_port(address, port, "HTTP") if is_port_shared else _listen(address, port)
        self.port: int = self._socket.getsockname()[1]
        self._departures = Departures()
        config = uvicorn.Config(
            app,
            loop="none",
            http=limited_protocol(max_connections, self._departures, direct, shedder),
            ws="none",
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
        )
        self._grace_seconds: int = config.timeout_graceful_shutdown or 1
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._socket.listen(_BACKLOG)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Take no new connection, let requests in flight end within the grace."""
        self._server.should_exit = True
        if self._serving is not None:
            # A little before uvicorn would cancel what they asked, and call that an error.
            dropping = asyncio.get_running_loop().call_later(self._grace_seconds - MARGIN_SECONDS, self._drop_rest)
            await self._serving
            dropping.cancel()
        self._socket.close()
        self._departures.close()

    def _drop_rest(self) -> None:
        left = list(self._server.server_state.connections)
        if left:
            _log.warning(
                "%d connections were not done within %d seconds and are dropped", len(left), self._grace_seconds
            )
        for connection in left:
            connection.transport.abort()


class _Server(uvicorn.Server):
    """Without uvicorn's own signal handlers: the program stops its parts in its own order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port), backlog=_BACKLOG, family=_family(address))
    except OSError as problem:
        raise NotReady(f"cannot listen for HTTP on {address}:{port}: {problem.strerror or problem}.") from problem


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
