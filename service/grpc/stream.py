"""`ModelStreamInfer`: many requests on one call, each answered by itself.

Answers of ordinary models go out in the order of their requests, as Triton's do; those of decoupled models go out as
they come, and hold nobody back. A request that fails says so in a response of its own, in its turn, and the stream
goes on. What is in flight is bounded: beyond it nothing more is read, so a client that sends too fast is slowed by the
flow control of its connection. A slot is free again only when the answer was sent, so one that does not read is slowed
as well.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import replace

import grpc

from enginehouse.errors import Error, Overloaded
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from service.codecs import proto_codec
from service.codecs.proto_codec import ReplyForm
from service.grpc.inference import CallHead, parse
from service.grpc.options import GrpcOptions
from service.grpc.patience import WritePatience
from service.grpc.stream_exchange import FINAL, StreamExchange
from service.request import Admitted, InferRequest, InferResponse
from service.server import InferenceServer
from service.status import status_of

# What a client may take to hear that its stream is over.
END_SECONDS = 1.0

# Unread by the client: above the one, a model that can wait with its next responses does, until below the other.
_BEHIND_BYTES, _CAUGHT_UP_BYTES = 1 << 22, 1 << 20

_log = logging.getLogger(__name__)

# A client that sends this header wants the first failure to end the stream with its status.
GRPC_ERROR_HEADER = "triton_grpc_error"


class ModelStreamInfer:
    """The RPC; each call is an `InferStream`."""

    def __init__(self, server: InferenceServer, options: GrpcOptions) -> None:
        self._server = server
        self._options = options
        self._open = 0

    def handler(self) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._call)

    async def _call(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        if self._open >= self._options.max_streams:
            problem = Overloaded(f"{self._open} streams are open; --grpc-max-streams allows no more. End one first.")
            await context.abort(status_of(problem).grpc, str(problem))
        self._open += 1
        try:
            await InferStream(self._server, context, self._options).run()
        finally:
            self._open -= 1


class InferStream:
    """One call of a client."""

    def __init__(self, server: InferenceServer, context: grpc.aio.ServicerContext, options: GrpcOptions) -> None:
        self._server = server
        self._context = context
        self._options = options
        self._head = CallHead(server, context, options)
        self._ends_on_error = dict(context.invocation_metadata()).get(GRPC_ERROR_HEADER) == "true"
        self._slots = asyncio.Semaphore(options.max_in_flight)
        self._exchanges: set[StreamExchange] = set()
        self._turns: deque[StreamExchange] = deque()
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._unsent_bytes = 0
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._paced: set[StreamExchange] = set()
        self._failure: Error | None = None
        self._wake = asyncio.Event()
        self._patience = WritePatience()

    async def run(self) -> None:
        """Read and answer until the client has sent its last request and each was answered."""
        running = asyncio.current_task()
        assert running is not None
        self._patience.start(running)
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self._patience.is_over:
                raise
            running.uncancel()
            await self._end_unread()
        finally:
            self._patience.stop()

    async def _end_unread(self) -> None:
        """Tell a client that does not read; it hears so behind what it has left unread."""
        problem = Overloaded(f"the client left a response unread for {self._patience.stall_seconds:g} seconds.")
        _log.warning("a stream of %s is ended: %s", self._context.peer(), problem)
        self._unsent.clear()
        # Where it never reads, this would wait for ever for what it has said already.
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._context.abort(status_of(problem).grpc, str(problem))
        raise asyncio.CancelledError

    async def _run(self) -> None:
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._wake.set())
        try:
            while not (reading.done() and not self._exchanges and not self._unsent):
                await self._wake.wait()
                self._wake.clear()
                await self._send()
            reading.result()
        finally:
            reading.cancel()
            for exchange in list(self._exchanges):
                exchange.leave()

    async def _read(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:
            await self._slots.acquire()
            self._admit(data)
            # Few requests may be large: what they and their answers take is bounded as well.
            while self._held_bytes + self._unsent_bytes > self._options.max_unsent_bytes:
                self._room.clear()
                await self._room.wait()

    def _admit(self, data: bytes) -> None:
        received_at = self._server.clock.now()
        exchange = StreamExchange(self, len(data))
        self._held_bytes += len(data)
        self._exchanges.add(exchange)
        self._turns.append(exchange)
        message = ModelInferRequest()
        try:
            message = parse(data, ModelInferRequest)
            if self._is_decoupled(message):
                exchange.has_turn = False
                self._turns.pop()
            request, form = self._head.decode(message, received_at)
        except Error as problem:
            exchange.fail(problem, message)
            return
        exchange.begin(request, form, message)

    def _is_decoupled(self, message: ModelInferRequest) -> bool:
        try:
            config = self._server.model_config(message.model_name, message.model_version)
        except Error:
            return False
        return config.model_transaction_policy.decoupled

    async def _send(self) -> None:
        while self._unsent:
            data, frees_slot = self._unsent.popleft()
            self._patience.begin(len(data))
            try:
                await self._context.write(data)
            except grpc.aio.InternalError as problem:
                # The caller left in the middle of an answer, which is no fault of ours to be logged.
                raise asyncio.CancelledError from problem
            self._patience.end()
            self._unsent_bytes -= len(data)
            self._room.set()
            if self._unsent_bytes < _CAUGHT_UP_BYTES:
                while self._paced:
                    self._paced.pop().pace(is_behind=False)
            if frees_slot:
                self._slots.release()
        if self._failure is not None and self._ends_on_error:
            await self._context.abort(status_of(self._failure).grpc, str(self._failure))

    def infer(self, request: InferRequest, exchange: StreamExchange) -> Admitted | None:
        return self._server.infer(request, exchange.settle)

    def encode(self, response: InferResponse, form: ReplyForm, is_final: bool) -> bytes:
        """Write a response as the stream's client wants it; raises `InvalidInput` if it does not fit its memory."""
        started = self._server.clock.now()
        marked = replace(response, parameters={**response.parameters, FINAL: is_final})
        answer = proto_codec.encode_response(marked, form, self._server.client_memory)
        data = ModelStreamInferResponse(infer_response=answer).SerializeToString()
        self._server.count_encode(response.model_name, response.model_version, self._server.clock.now() - started)
        return data

    def is_full(self, more_bytes: int) -> bool:
        """Whether the client has so much to read already that more must not wait for it."""
        return self._unsent_bytes > 0 and self._unsent_bytes + more_bytes > self._options.max_unsent_bytes

    def put(self, data: bytes, is_last: bool = False) -> None:
        """Send a response in its turn; with the last one of a request its slot is free."""
        self._unsent.append((data, is_last))
        self._unsent_bytes += len(data)
        self._wake.set()

    def pace(self, exchange: StreamExchange) -> None:
        """Let a model wait with its next response while the client has much to read; not all models can."""
        if self._unsent_bytes > _BEHIND_BYTES and exchange not in self._paced:
            self._paced.add(exchange)
            exchange.pace(is_behind=True)

    def end(self, exchange: StreamExchange, failure: Error | None = None) -> None:
        """A request has its last response, which is sent when it is its turn."""
        if failure is not None and self._ends_on_error:
            self._failure = self._failure or failure
            exchange.last = None
            self._wake.set()
        size = len(exchange.last or b"")
        self._held_bytes += size - exchange.size
        exchange.size = size
        if not exchange.has_turn:
            self._finish(exchange)
        while self._turns and self._turns[0].is_over:
            self._finish(self._turns.popleft())

    def _finish(self, exchange: StreamExchange) -> None:
        self._exchanges.discard(exchange)
        self._paced.discard(exchange)
        self._held_bytes -= exchange.size
        self._room.set()
        if exchange.last is not None:
            self.put(exchange.last, is_last=True)
            return
        self._slots.release()
        self._wake.set()
