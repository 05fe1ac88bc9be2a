"""A grpc.aio server with the inference service, the standard health service and reflection."""

import asyncio
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from enginehouse.errors import NotReady
from enginehouse.proto.pool import POOL
from service.grpc.options import GrpcOptions
from service.grpc.servicer import SERVICE_NAME, InferenceServicer
from service.server import InferenceServer
from service.shared_port import claim_port

MAX_PENDING_CALLS = 100_000

# Far above what a client has under way at once; beyond it, the protocol makes the client wait.
MAX_CALLS_OF_A_CONNECTION = 1 << 14

# With calls under way, a client is asked this often whether it is there, and has so long to say so.
KEEP_ALIVE_SECONDS = 60
KEEP_ALIVE_ANSWER_SECONDS = 20


class GrpcListener:
    """Listens once it is started; a port that is shared with other servers takes no connection before.

    Raises:
        NotReady: the port is taken.
    """

    def __init__(
        self, server: InferenceServer, address: str, port: int, options: GrpcOptions, is_port_shared: bool = False
    ) -> None:
        arguments = [
            ("grpc.max_send_message_length", options.max_message_bytes),
            ("grpc.max_receive_message_length", options.max_message_bytes),
            ("grpc.default_compression_level", options.compression_level),
            ("grpc.so_reuseport", int(is_port_shared)),
            # The library's own limit cancels calls at random; ours says that the queue is full.
            ("grpc.max_concurrent_streams", MAX_CALLS_OF_A_CONNECTION),
            ("grpc.max_allowed_incoming_connections", options.max_connections),
            # A client that is gone without a word, or does not read what comes, does not answer this either.
            ("grpc.keepalive_time_ms", 1000 * KEEP_ALIVE_SECONDS),
            ("grpc.keepalive_timeout_ms", 1000 * KEEP_ALIVE_ANSWER_SECONDS),
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
        ]
        self._server: Any = grpc.aio.server(options=arguments)
        self._server.add_generic_rpc_handlers((InferenceServicer(server, options).handlers(),))
        self._inference = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _describe_health()
        names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server, pool=POOL)
        self._address = address
        # The library listens as soon as it has a port, and would let callers of a shared one wait for our models.
        self._claim = claim_port(address, port, "gRPC") if is_port_shared else None
        self.port: int = self._claim.getsockname()[1] if self._claim else self._take(port)

    async def start(self) -> None:
        if self._claim is not None:
            self._take(self.port)
            self._claim.close()
        await self._server.start()
        await self._set_ready(self._inference.is_ready())
        self._inference.watch_readiness(self._ready_changed)

    def _ready_changed(self, is_ready: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._set_ready(is_ready))
        # The loop holds tasks weakly; one that is collected early would never tell.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _set_ready(self, is_ready: bool) -> None:
        """Tell the standard health service, for the server as a whole and for the inference service."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new call, let those in flight end within the grace."""
        await self._server.stop(grace_seconds)
        if self._claim is not None:
            self._claim.close()

    def _take(self, port: int) -> int:
        try:
            taken: int = self._server.add_insecure_port(f"{self._address}:{port}")
        except RuntimeError as problem:
            raise NotReady(
                f"cannot listen for gRPC on {self._address}:{port}; it is taken or not allowed."
            ) from problem
        return taken


def _describe_health() -> None:
    """Reflection looks in our pool, where the health service must be found too."""
    file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    POOL.Add(file)
