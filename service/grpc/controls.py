"""The RPCs by which clients register memory of theirs, and set traces and the log."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from enginehouse.proto import grpc_service_pb2 as pb
from service.server import InferenceServer
from service.tracing.log_settings import LogValue


class ControlRpcs:
    """One method for each RPC."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server

    def handlers(self) -> dict[str, tuple[Callable[[Any], Awaitable[Message]], type[Message]]]:
        """Each RPC by its name, with the type of its request."""
        return {
            "SystemSharedMemoryStatus": (self._system_status, pb.SystemSharedMemoryStatusRequest),
            "SystemSharedMemoryRegister": (self._system_register, pb.SystemSharedMemoryRegisterRequest),
            "SystemSharedMemoryUnregister": (self._system_unregister, pb.SystemSharedMemoryUnregisterRequest),
            "CudaSharedMemoryStatus": (self._cuda_status, pb.CudaSharedMemoryStatusRequest),
            "CudaSharedMemoryRegister": (self._cuda_register, pb.CudaSharedMemoryRegisterRequest),
            "CudaSharedMemoryUnregister": (self._cuda_unregister, pb.CudaSharedMemoryUnregisterRequest),
            "TraceSetting": (self._trace_setting, pb.TraceSettingRequest),
            "LogSettings": (self._log_settings, pb.LogSettingsRequest),
        }

    async def _system_status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        return self._server.system_shared_memory_status(request.name)

    async def _system_register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._server.register_system_shared_memory(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _system_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._server.unregister_system_shared_memory(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        return self._server.cuda_shared_memory_status(request.name)

    async def _cuda_register(self, request: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        self._server.register_cuda_shared_memory(request.name, request.raw_handle, request.device_id, request.byte_size)
        return pb.CudaSharedMemoryRegisterResponse()

    async def _cuda_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        self._server.unregister_cuda_shared_memory(request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    async def _trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        changes = {name: list(setting.value) for name, setting in request.settings.items()}
        return self._server.trace_settings(request.model_name, changes)

    async def _log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        changes: dict[str, LogValue] = {}
        for name, setting in request.settings.items():
            choice = setting.WhichOneof("parameter_choice")
            # A setting without a value is nobody's wish.
            if choice is not None:
                changes[name] = getattr(setting, choice)
        return self._server.log_settings(changes)
