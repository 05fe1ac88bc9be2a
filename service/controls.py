"""What clients may register and set on a running server besides its models: memory of theirs, traces, the log."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from enginehouse.proto.grpc_service_pb2 import (
    CudaSharedMemoryStatusResponse,
    LogSettingsResponse,
    SystemSharedMemoryStatusResponse,
    TraceSettingResponse,
)
from service.client_memory.shared_memory import SharedMemory
from service.tracing.log_settings import LogSettings, LogValue
from service.tracing.trace import Tracer
from service.tracing.trace_settings import Changes, TraceSettings


def _default_tracer() -> Tracer:
    return Tracer(TraceSettings(), time.monotonic)


@dataclass(slots=True, frozen=True)
class Controls:
    """One of each; the defaults let no client register anything, and trace nothing."""

    memory: SharedMemory = field(default_factory=lambda: SharedMemory(is_allowed=False))
    tracer: Tracer = field(default_factory=_default_tracer)
    log: LogSettings = field(default_factory=lambda: LogSettings(logging.getLogger()))

    @property
    def extensions(self) -> tuple[str, ...]:
        """Words of the protocol for what is there."""
        memory = self.memory
        kinds = ((memory.is_allowed, "system_shared_memory"), (memory.has_cuda, "cuda_shared_memory"))
        return (*(word for is_there, word in kinds if is_there), "trace", "logging")

    def system_shared_memory_status(self, name: str) -> SystemSharedMemoryStatusResponse:
        """One region, or all if `name` is empty; raises `NotFound`."""
        answer = SystemSharedMemoryStatusResponse()
        for region in self.memory.system_regions(name):
            entry = answer.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.byte_size
        return answer

    def cuda_shared_memory_status(self, name: str) -> CudaSharedMemoryStatusResponse:
        """One region, or all if `name` is empty; raises `NotFound`."""
        answer = CudaSharedMemoryStatusResponse()
        for region in self.memory.cuda_regions(name):
            entry = answer.regions[region.name]
            entry.name, entry.device_id, entry.byte_size = region.name, region.device_id, region.byte_size
        return answer

    def trace_settings(self, model_name: str, changes: Changes) -> TraceSettingResponse:
        """Change what is named, then tell all; see `Tracer.update`."""
        if changes:
            self.tracer.update(model_name, changes)
        answer = TraceSettingResponse()
        for name, values in self.tracer.settings(model_name).values().items():
            answer.settings[name].value.extend(values)
        return answer

    def log_settings(self, changes: Mapping[str, LogValue]) -> LogSettingsResponse:
        """Change what is named, then tell all; see `LogSettings.update`."""
        self.log.update(changes)
        answer = LogSettingsResponse()
        for name, value in self.log.values().items():
            if isinstance(value, bool):
                answer.settings[name].bool_param = value
            elif isinstance(value, int):
                answer.settings[name].uint32_param = value
            else:
                answer.settings[name].string_param = value
        return answer

    def close(self) -> None:
        """Write what was traced, let go of what was registered."""
        self.tracer.close()
        self.memory.close()
