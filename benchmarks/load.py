"""A light closed-loop load: so many connections, each sending its next request when the last is answered.

It costs some ten microseconds a request, so that what is measured is the server and not the client.
"""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import grpc
import numpy as np
import orjson
import uvloop

from enginehouse.dtype import Array
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest

_END_OF_HEAD = b"\r\n\r\n"


@dataclass
class Load:
    """What one run saw. Only answers inside the window count: neither the start, when every request arrives at once,
    nor the end, when ever fewer are under way.

    Attributes:
        begins_at, ends_at: the window, in the seconds of `time.perf_counter`.
        latencies: seconds, one per request that was answered inside the window.
    """

    begins_at: float
    ends_at: float
    latencies: list[float] = field(default_factory=list)

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / (self.ends_at - self.begins_at)

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) * 1000

    def count(self, sent_at: float, answered_at: float) -> None:
        if self.begins_at <= answered_at < self.ends_at:
            self.latencies.append(answered_at - sent_at)


def _window(seconds: float) -> Load:
    """A window of so many seconds behind a warm-up of a third of them."""
    begins_at = time.perf_counter() + seconds / 3
    return Load(begins_at, begins_at + seconds)


def http_load(
    port: int, model: str, name: str, row: Array, concurrency: int, seconds: float, *, may_refuse: bool = False
) -> Load:
    """Send one row a request in the binary form over HTTP/1.1 to the loopback.

    An answer of 503 ends the load, as any other error does, unless the server `may_refuse`; then it is not counted.
    """
    accepted = (b"HTTP/1.1 200", b"HTTP/1.1 503") if may_refuse else (b"HTTP/1.1 200",)
    return uvloop.run(_http_load(port, http_request(model, name, row), concurrency, seconds, accepted))


def grpc_load(port: int, model: str, name: str, row: Array, concurrency: int, seconds: float) -> Load:
    """Send one row a request over gRPC to the loopback."""
    message = ModelInferRequest(model_name=model, raw_input_contents=[row.tobytes()])
    message.inputs.add(name=name, datatype="FP32", shape=row.shape)
    return uvloop.run(_grpc_load(port, message.SerializeToString(), concurrency, seconds))


def http_request(model: str, name: str, row: Array) -> bytes:
    """One row in the binary form, whole."""
    tensor = {"name": name, "datatype": "FP32", "shape": row.shape, "parameters": {"binary_data_size": row.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    body = header + row.tobytes()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, load: Load, accepted: tuple[bytes, ...], done: asyncio.Future[None]) -> None:
        self._request = request
        self._accepted = accepted
        self._load = load
        self._done = done
        self._received = bytearray()
        self._expected = 0
        self._sent_at = 0.0
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by contract, not by inheritance.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            end = self._received.find(_END_OF_HEAD)
            if end < 0:
                return
            self._expected = end + len(_END_OF_HEAD) + self._content_length(bytes(self._received[:end]))
        if len(self._received) >= self._expected:
            now = time.perf_counter()
            if self._received.startswith(b"HTTP/1.1 200"):
                self._load.count(self._sent_at, now)
            self._received.clear()
            self._expected = 0
            if now < self._load.ends_at:
                self._send()
            else:
                self._has_ended = True
                self._transport.close()

    def connection_lost(self, problem: Exception | None) -> None:
        if self._done.done():
            return
        if problem is None and self._has_ended:
            self._done.set_result(None)
        else:
            self._done.set_exception(problem or RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _content_length(self, head: bytes) -> int:
        if not head.startswith(self._accepted):
            problem = RuntimeError(f"the server answered {head[:60]!r}")
            self._done.set_exception(problem)
            raise problem
        lowered = head.lower()
        start = lowered.index(b"content-length:") + len(b"content-length:")
        return int(lowered[start:].split(b"\r\n", 1)[0])


async def _http_load(port: int, request: bytes, concurrency: int, seconds: float, accepted: tuple[bytes, ...]) -> Load:
    loop = asyncio.get_running_loop()
    load = _window(seconds)
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(concurrency)]
    for end in ends:
        await loop.create_connection(partial(_Connection, request, load, accepted, end), "127.0.0.1", port)
    await asyncio.gather(*ends)
    return load


async def _grpc_load(port: int, request: bytes, concurrency: int, seconds: float) -> Load:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        load = _window(seconds)

        async def call_until_the_end() -> None:
            while (sent_at := time.perf_counter()) < load.ends_at:
                await method(request)
                load.count(sent_at, time.perf_counter())

        await asyncio.gather(*(call_until_the_end() for _ in range(concurrency)))
    return load
