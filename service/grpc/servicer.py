"""The inference service over grpc.aio: its twenty RPCs, each of them a call of the server."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from enginehouse.errors import Error
from enginehouse.proto import grpc_service_pb2 as pb
from service.grpc.controls import ControlRpcs
from service.grpc.inference import ModelInfer, parse
from service.grpc.options import GrpcOptions
from service.grpc.refusal import refuse
from service.grpc.stream import ModelStreamInfer
from service.loading.load_order import load_parameters_from_message, unload_dependents_from_message
from service.server import InferenceServer

SERVICE_NAME = "inference.GRPCInferenceService"

Handler = Callable[[Any], Awaitable[Message]]


class InferenceServicer:
    """One method for each RPC; the messages come from our own descriptor pool."""

    def __init__(self, server: InferenceServer, options: GrpcOptions) -> None:
        self._server = server
        self._options = options

    def handlers(self) -> grpc.GenericRpcHandler:
        """All RPCs, by name."""
        rpcs: dict[str, tuple[Handler, type[Message]]] = {
            "ServerLive": (self._server_live, pb.ServerLiveRequest),
            "ServerReady": (self._server_ready, pb.ServerReadyRequest),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest),
            "ServerMetadata": (self._server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": (self._model_metadata, pb.ModelMetadataRequest),
            "ModelConfig": (self._model_config, pb.ModelConfigRequest),
            "ModelStatistics": (self._model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": (self._repository_index, pb.RepositoryIndexRequest),
            "RepositoryModelLoad": (self._repository_load, pb.RepositoryModelLoadRequest),
            "RepositoryModelUnload": (self._repository_unload, pb.RepositoryModelUnloadRequest),
            **ControlRpcs(self._server).handlers(),
        }
        methods = {name: _method(handler, request) for name, (handler, request) in rpcs.items()}
        methods["ModelInfer"] = ModelInfer(self._server, self._options).handler()
        methods["ModelStreamInfer"] = ModelStreamInfer(self._server, self._options).handler()
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    async def _server_live(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._server.is_ready())

    async def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._server.is_model_ready(request.name, request.version))

    async def _server_metadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return self._server.server_metadata()

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return self._server.model_metadata(request.name, request.version)

    async def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self._server.model_config(request.name, request.version))

    async def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        return self._server.statistics(request.name, request.version)

    async def _repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        return self._server.repository_index(request.ready)

    async def _repository_load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        # One client spells the model's name into the repository's field.
        name = request.model_name or request.repository_name
        await self._server.load(name, *load_parameters_from_message(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def _repository_unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        name = request.model_name or request.repository_name
        await self._server.unload(name, unload_dependents_from_message(request.parameters))
        return pb.RepositoryModelUnloadResponse()


def _method(handler: Handler, request_type: type[Message]) -> grpc.RpcMethodHandler:
    async def call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            answer = await handler(parse(data, request_type))
        except Error as problem:
            return refuse(context, problem)
        return answer.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(call)
