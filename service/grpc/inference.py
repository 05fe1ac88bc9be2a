"""The inference RPCs over grpc.aio: decode, call the server, encode."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest
from service.codecs import proto_codec
from service.codecs.proto_codec import ReplyForm
from service.grpc.options import GrpcOptions
from service.grpc.refusal import refuse
from service.request import InferRequest, InferResponse
from service.reserved_parameters import RESERVED_PARAMETERS
from service.server import InferenceServer


def parse(data: bytes, message_type: type[Message]) -> Any:
    """Read a message; raises `InvalidInput` for bytes that are none."""
    try:
        return message_type.FromString(data)
    except DecodeError as problem:
        raise InvalidInput(f"the {len(data)} bytes are no {message_type.__name__}: {problem}.") from problem


class CallHead:
    """What a call says besides its messages: its deadline, and the headers that are forwarded."""

    def __init__(self, server: InferenceServer, context: grpc.aio.ServicerContext, options: GrpcOptions) -> None:
        self._server = server
        remaining = context.time_remaining()
        self._deadline = None if remaining is None else server.clock.now() + remaining
        self._forwarded: Mapping[str, str] = {}
        if options.forwarded:
            pairs = [(key, value) for key, value in context.invocation_metadata() if isinstance(value, str)]
            found = options.forwarded.parameters(pairs)
            self._forwarded = {key: value for key, value in found.items() if key not in RESERVED_PARAMETERS}

    def decode(self, message: ModelInferRequest, received_at: float) -> tuple[InferRequest, ReplyForm]:
        """Read a request, with what the call says of it; raises `InvalidInput`."""
        request, form = proto_codec.decode_request(message, self._server.client_memory)
        if self._forwarded:
            request.parameters = {**self._forwarded, **request.parameters}
        request.deadline = self._deadline
        request.received_at = received_at
        request.decoded_at = self._server.clock.now()
        return request, form


class ModelInfer:
    """One request, one answer."""

    def __init__(self, server: InferenceServer, options: GrpcOptions) -> None:
        self._server = server
        self._options = options

    def handler(self) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._call)

    async def _call(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await self._infer(data, context)
        except Error as problem:
            return refuse(context, problem)

    async def _infer(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Wait for the one answer; a call that is cancelled takes its request out of the queue."""
        received_at = self._server.clock.now()
        head = CallHead(self._server, context, self._options)
        request, form = head.decode(parse(data, ModelInferRequest), received_at)
        self._refuse_decoupled(request)
        answer: asyncio.Future[InferResponse | Error] = asyncio.get_running_loop().create_future()
        admitted = self._server.infer(request, lambda result: None if answer.done() else answer.set_result(result))
        try:
            result = await answer
        except asyncio.CancelledError:
            if admitted is not None:
                admitted.cancel()
            raise
        if isinstance(result, Error):
            raise result
        started = self._server.clock.now()
        data = proto_codec.encode_response(result, form, self._server.client_memory).SerializeToString()
        self._server.count_encode(result.model_name, result.model_version, self._server.clock.now() - started)
        return data

    def _refuse_decoupled(self, request: InferRequest) -> None:
        """Refuse a model that may answer any number of times."""
        model = self._server.registry.resolve(request.model_name, request.model_version)
        if model.config.model_transaction_policy.decoupled:
            raise NotSupported(
                "ModelInfer RPC doesn't support models with decoupled transaction policy; use ModelStreamInfer."
            )
