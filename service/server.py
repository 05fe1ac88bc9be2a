"""The one object behind every transport: infer, describe, load, unload. It knows no transport."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from enginehouse.errors import Error, InvalidInput, NotReady
from enginehouse.proto.grpc_service_pb2 import (
    CudaSharedMemoryStatusResponse,
    LogSettingsResponse,
    ModelMetadataResponse,
    ModelStatisticsResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
    SystemSharedMemoryStatusResponse,
    TraceSettingResponse,
)
from enginehouse.proto.model_config_pb2 import ModelConfig
from service import describe
from service.clock import Clock
from service.codecs.answer_form import as_asked
from service.codecs.client_tensors import ClientMemory
from service.controls import Controls
from service.loading.lifecycle import Lifecycle
from service.loading.load_order import order_from_parameters
from service.metrics.first_response import follow_first_response
from service.registry import Registry
from service.request import Admitted, InferRequest, Settle
from service.response_cache import ResponseCache, may_cache
from service.scheduling.queue import deliver
from service.tracing.log_settings import LogValue
from service.tracing.trace_settings import Changes

_log = logging.getLogger(__name__)

# Only what is there: clients read this list to decide what they may ask for.
EXTENSIONS = (
    "classification",
    "sequence",
    "sequence(string_id)",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)


@dataclass(slots=True, frozen=True)
class Identity:
    """What the server says when it is asked who it is."""

    name: str
    version: str


def identity(name: str) -> Identity:
    """The given name, with the version of the installed distribution."""
    return Identity(name, metadata.version("enginehouse"))


class InferenceServer:
    """Everything a transport may call. All of it runs on the thread that owns the queues.

    Args:
        is_strict: whether the server is ready only if each model that was asked for is.
        may_load: whether clients may load and unload models.
        cache: answers for models that ask for it; None for none.
        controls: what clients may register and set; by default no memory and no traces.
    """

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        clock: Clock,
        server_identity: Identity,
        is_strict: bool,
        may_load: bool,
        controls: Controls | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self.clock = clock
        self.registry = registry
        self._lifecycle = lifecycle
        self._identity = server_identity
        self._is_strict = is_strict
        self._may_load = may_load
        self._cache = cache
        self._controls = controls or Controls()
        self.client_memory: ClientMemory = self._controls.memory
        self._is_started = False
        self._is_stopping = False
        self._readiness_watchers: list[Callable[[bool], None]] = []

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        """Answer a request.

        `settle` is called exactly once with the response or the error, on this thread, perhaps before this returns.

        Returns:
            The admitted request, for `cancel`; None if it was refused.
        """
        try:
            model = self.registry.resolve(request.model_name, request.model_version)
            settle = as_asked(request, settle, model.config, model.labels)
        except Error as refusal:
            deliver(settle, refusal, request.model_name)
            return None
        _log.debug("infer %s version '%s' request '%s'", request.model_name, request.model_version, request.id)
        tracer = self._controls.tracer
        if tracer.is_on:
            settle = tracer.follow(request, settle)
        first_response = model.statistics.first_response
        if first_response is not None and model.config.model_transaction_policy.decoupled:
            settle = follow_first_response(request, settle, first_response, self.clock)
        if self._cache is not None and may_cache(model.config):
            return self._cache.infer(model, request, settle)
        return model.infer(request, settle)

    def count_encode(self, name: str, version: str, seconds: float) -> None:
        """A transport wrote an answer of this model; one that is gone meanwhile counts no more."""
        try:
            model = self.registry.resolve(name, version)
        except Error:
            return
        model.statistics.count_encode(seconds)

    def time_to_spare(self, name: str, version: str) -> float:
        """How long one more request may wait to be read, and be in time; raises `Error` if nothing answers for it."""
        return self.registry.resolve(name, version).time_to_spare

    def count_refusals(self, name: str, version: str, count: int) -> None:
        """A transport refused requests of this model before it read them."""
        with suppress(Error):
            self.registry.resolve(name, version).statistics.count_failure("REJECTED", 0.0, count)

    def started(self) -> None:
        """All models that were asked for at the start have been tried."""
        self._is_started = True
        self.tell_readiness()

    def stopping(self) -> None:
        """Not ready from now on; requests are still answered."""
        self._is_stopping = True
        self.tell_readiness()

    def watch_readiness(self, callback: Callable[[bool], None]) -> None:
        """Tell `callback` whether the server is ready, each time that may have changed."""
        self._readiness_watchers.append(callback)

    def is_ready(self) -> bool:
        """Whether a client should send requests here."""
        if self._is_stopping or not self._is_started:
            return False
        return not (self._is_strict and self._lifecycle.failed_models)

    def is_model_ready(self, name: str, version: str) -> bool:
        """Whether a version, or the newest of the model, answers; raises `NotFound` for what nobody asked for."""
        try:
            return not self.registry.resolve(name, version).absence
        except NotReady:
            return False

    def server_metadata(self) -> ServerMetadataResponse:
        """Who the server is, and the extensions of the protocol that clients may use."""
        extensions = [*EXTENSIONS, *self._controls.extensions]
        return ServerMetadataResponse(name=self._identity.name, version=self._identity.version, extensions=extensions)

    def model_metadata(self, name: str, version: str) -> ModelMetadataResponse:
        """Tensors of a version, or of the newest; raises `NotFound`, `NotReady` or `InvalidInput` as `resolve` does."""
        model = self.registry.resolve(name, version)
        versions = [int(version)] if version else self.registry.versions(name)
        return describe.model_metadata(model, versions)

    def model_config(self, name: str, version: str) -> ModelConfig:
        """The complete configuration, defaults filled in."""
        return self.registry.resolve(name, version).config

    def statistics(self, name: str, version: str) -> ModelStatisticsResponse:
        """Statistics of one version, of all versions of a model, or of everything if `name` is empty."""
        if name and version:
            models = [self.registry.resolve(name, version)]
        elif name:
            self.registry.resolve(name, "")
            models = self.registry.answering(name)
        else:
            models = list(self.registry.served())
        return ModelStatisticsResponse(model_stats=[describe.model_statistics(model) for model in models])

    def repository_index(self, only_ready: bool) -> RepositoryIndexResponse:
        """Every version that was ever asked for, and every model that never was."""
        return describe.repository_index(self.registry, self._lifecycle.repository_names(), only_ready)

    async def load(self, name: str, config_json: str = "", files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model.

        Args:
            name: of the model.
            config_json: a configuration that replaces the one in the repository; empty for none.
            files: what the model consists of instead of what lies in the repository, by `file:<path inside it>`.

        Raises:
            NotReady: the control mode forbids it.
            NotFound: no repository holds the model.
            InvalidInput: it failed to load; what answered before still does.
        """
        self._check_may_load()
        try:
            await self._lifecycle.load(order_from_parameters(name, config_json, files or {}))
        finally:
            self.tell_readiness()

    async def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Unload a model, and on request those that it is made of; raises `NotReady` where the mode forbids it."""
        self._check_may_load()
        try:
            await self._lifecycle.unload(name, unload_dependents)
        finally:
            self.tell_readiness()

    def system_shared_memory_status(self, name: str) -> SystemSharedMemoryStatusResponse:
        """One registered region, or all if `name` is empty; raises `NotFound`."""
        return self._controls.system_shared_memory_status(name)

    def register_system_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Let requests name a part of a POSIX shared memory object; see `SharedMemory.register_system`."""
        self._controls.memory.register_system(name, key, offset, byte_size)

    def unregister_system_shared_memory(self, name: str) -> None:
        """Forget one region, or all if `name` is empty."""
        self._controls.memory.unregister_system(name)

    def cuda_shared_memory_status(self, name: str) -> CudaSharedMemoryStatusResponse:
        """One registered region, or all if `name` is empty; raises `NotFound`."""
        return self._controls.cuda_shared_memory_status(name)

    def register_cuda_shared_memory(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> None:
        """Let requests name memory of a GPU; see `SharedMemory.register_cuda`."""
        self._controls.memory.register_cuda(name, raw_handle, device_id, byte_size)

    def unregister_cuda_shared_memory(self, name: str) -> None:
        """Forget one region, or all if `name` is empty."""
        self._controls.memory.unregister_cuda(name)

    def trace_settings(self, model_name: str, changes: Changes) -> TraceSettingResponse:
        """Change what is named of a model's traces, or of all models' if `model_name` is empty; then tell all.

        Raises:
            InvalidInput: an unknown model, name or value.
            NotSupported: the file was named.
        """
        if model_name and model_name not in self.registry.names():
            raise InvalidInput(f"Request for unknown model : {model_name[:100]}")
        return self._controls.trace_settings(model_name, changes)

    def log_settings(self, changes: Mapping[str, LogValue]) -> LogSettingsResponse:
        """Change what is named of the log, then tell all; raises `InvalidInput` or `NotSupported`."""
        return self._controls.log_settings(changes)

    def tell_readiness(self) -> None:
        """Models came or went: whoever watches hears whether the server is ready."""
        for callback in self._readiness_watchers:
            callback(self.is_ready())

    def _check_may_load(self) -> None:
        if not self._may_load:
            raise NotReady(
                "explicit model load / unload is not allowed if polling is enabled, or all models are loaded at the "
                "start. Start the server with --model-control-mode explicit."
            )
