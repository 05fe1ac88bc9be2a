"""The composition root of the service: builds the parts, hands them to each other, starts and stops them in order."""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from enginehouse.available_memory import available_memory
from enginehouse.config_completion import Completion
from enginehouse.errors import NotReady
from enginehouse.memory_return import return_large_blocks
from enginehouse.onnxruntime_engine import check_one_distribution
from enginehouse.processes.meeting_place import MeetingPlace
from service.backend_config import max_batch_sizes_from_flags
from service.client_memory.shared_memory import SharedMemory
from service.clock import Clock, LoopClock
from service.codecs.forwarding import HeaderPattern
from service.controls import Controls
from service.grpc.listener import GrpcListener
from service.grpc.options import COMPRESSION_LEVELS, GrpcOptions
from service.http.application import create_application, create_metrics_application
from service.http.direct import DirectInference
from service.http.listener import HttpListener
from service.http.load_shedding import LoadShedder
from service.loading.assembly import Surroundings
from service.loading.lifecycle import Lifecycle
from service.loading.load_threads import LoadThreads
from service.loading.loader import VersionLoader
from service.loading.memory_estimate import MemoryBudget
from service.loading.model_control import ModelControl
from service.loading.repositories import open_repositories
from service.metrics.cpu_meter import CpuMeter
from service.metrics.gpu_meter import open_gpu_meter
from service.metrics.machine_metrics import MachineMetrics
from service.metrics.metrics import ServerMetrics
from service.metrics.metrics_options import options_from_flags
from service.python_models.model_calls import ModelCalls
from service.registry import Registry
from service.response_cache import ResponseCache, capacity_from_flags
from service.scheduling.rate_limiter import RateLimiter, limit_from_text
from service.served_model import CLOSE_PATIENCE_SECONDS
from service.server import InferenceServer, identity
from service.settings import Settings
from service.tracing.log_settings import LogSettings
from service.tracing.trace import Tracer
from service.tracing.trace_settings import settings_from_flags

_log = logging.getLogger(__name__)

# New objects, less those that went, before the collector looks for cycles. What is answered leaves none of ours, and
# with fewer it walked those in flight again and again, and with them a thousand connections: up to 70 ms each time.
_YOUNG_OBJECTS = 10_000


class Service:
    """All parts of one running service. Make it on the loop that will own the queues.

    Raises:
        NotFound: there is no model repository at that path, or not a model that was asked for.
        InvalidInput: the directory of shared engines is not one, or not private.
        NotReady: a port is taken, or a repository cannot be read.
        NotSupported: the installation of ONNX Runtime is broken.
    """

    def __init__(self, settings: Settings) -> None:
        check_one_distribution()
        return_large_blocks()
        repositories = open_repositories(settings.model_repository, settings.repository_cache)
        clock = LoopClock(asyncio.get_running_loop())
        registry = Registry()
        self._machine = _machine(settings)
        options = options_from_flags(settings.metrics_config)
        metrics = ServerMetrics(registry, options, self._machine.collect)
        loader = VersionLoader(
            repositories,
            metrics.count_golden_failure,
            _completion(settings),
            _memory_budget(settings),
            settings.model_config_name,
            None if settings.shared_engines is None else MeetingPlace(settings.shared_engines),
            ModelCalls(clock, lambda request, settle: self.server.infer(request, settle)).ask,
        )
        self._settings = settings
        self._controls = _controls(settings, clock)
        cache = _cache(settings, clock, registry)
        surroundings = Surroundings(
            clock,
            infer=lambda request, settle: self.server.infer(request, settle),
            resolve=registry.resolve,
            metrics=options,
            has_response_cache=cache is not None,
            rate_limiter=_rate_limiter(settings, clock),
            on_presence=lambda: self.server.tell_readiness(),
        )
        threads = LoadThreads(settings.model_load_thread_count)
        self._lifecycle = Lifecycle(registry, loader, surroundings, settings.exit_timeout_secs, threads)
        self.server = InferenceServer(
            registry,
            self._lifecycle,
            clock,
            identity(settings.id),
            is_strict=settings.strict_readiness,
            may_load=settings.model_control_mode == "explicit",
            controls=self._controls,
            cache=cache,
        )
        self._control = ModelControl(
            settings.model_control_mode,
            settings.load_model,
            repositories,
            self._lifecycle,
            clock,
            settings.repository_poll_secs,
            self.server.tell_readiness,
        )
        self._control.look()
        self.http = _http_listener(settings, self.server, metrics)
        self.metrics = _metrics_listener(settings, metrics)
        self.grpc = GrpcListener(
            self.server, settings.grpc_address, settings.grpc_port, _grpc_options(settings), settings.reuse_grpc_port
        )

    async def start(self) -> None:
        """Answer health first, then load the models, then be ready.

        A port that is shared with other servers is opened last: until then those answer there.
        """
        if not self._settings.reuse_http_port:
            self.http.start()
        if self.metrics is not None:
            self.metrics.start()
            self._machine.start()
        if not self._settings.reuse_grpc_port:
            await self.grpc.start()
        await self._control.start()
        if self._settings.exit_on_error and self._lifecycle.failed_models:
            failed = ", ".join(sorted(self._lifecycle.failed_models))
            raise NotReady(f"--exit-on-error: {failed} cannot serve; the log says why.")
        # What lives as long as the server need not be walked again by every collection: it cost up to 50 ms each.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)
        self.server.started()
        if self._settings.reuse_http_port:
            self.http.start()
        if self._settings.reuse_grpc_port:
            await self.grpc.start()

    async def stop(self) -> bool:
        """Not ready at once; serve through the drain delay; finish what is in flight; then unload.

        Returns:
            False if a model could not be unloaded in time, such as one whose load hangs.
        """
        self.server.stopping()
        await self._control.stop()
        await asyncio.sleep(self._settings.drain_delay_secs)
        await asyncio.gather(self.http.stop(), self.grpc.stop(self._settings.exit_timeout_secs))
        try:
            # Draining takes up to the timeout, and closing an engine that hangs a little more.
            patience = self._settings.exit_timeout_secs + CLOSE_PATIENCE_SECONDS + 1
            await asyncio.wait_for(self._lifecycle.unload_all(), patience)
        except TimeoutError:
            _log.error("a model could not be unloaded in time; it is left behind")
            return False
        if self.metrics is not None:
            await self.metrics.stop()
        await asyncio.to_thread(self._machine.stop)
        await asyncio.to_thread(self._controls.close)
        return True


def _http_listener(settings: Settings, server: InferenceServer, metrics: ServerMetrics) -> HttpListener:
    app = create_application(
        server,
        metrics.render if settings.allow_metrics else None,
        settings.http_max_input_size,
        settings.http_header_forward_pattern,
    )
    return HttpListener(
        app,
        settings.http_address,
        settings.http_port,
        settings.exit_timeout_secs,
        settings.http_max_connections,
        # A head that becomes parameters is read by the application alone.
        None if settings.http_header_forward_pattern else DirectInference(server, settings.http_max_input_size),
        LoadShedder(server),
        is_port_shared=settings.reuse_http_port,
    )


def _metrics_listener(settings: Settings, metrics: ServerMetrics) -> HttpListener | None:
    if not settings.allow_metrics:
        return None
    app = create_metrics_application(metrics.render)
    return HttpListener(
        app, settings.metrics_address, settings.metrics_port, settings.exit_timeout_secs, settings.http_max_connections
    )


def _machine(settings: Settings) -> MachineMetrics:
    return MachineMetrics(
        settings.metrics_interval_ms / 1000,
        CpuMeter() if settings.allow_cpu_metrics else None,
        open_gpu_meter if settings.allow_gpu_metrics else None,
    )


def _rate_limiter(settings: Settings, clock: Clock) -> RateLimiter | None:
    limits = [limit_from_text(text) for text in settings.rate_limit_resource]
    return RateLimiter(clock, limits) if settings.rate_limit == "execution_count" else None


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a service until SIGTERM or SIGINT asks for its end; a person who asks again need not wait."""
    asked_to_stop = asyncio.Event()

    def interrupt() -> None:
        if asked_to_stop.is_set():
            _end_process(1)
        asked_to_stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    begun = time.monotonic()
    service = Service(settings)
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(asked_to_stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        announce(_addresses(service, settings, time.monotonic() - begun))
    await stopping
    _log.info("stopping: finishing what is in flight")
    starting.cancel()
    if not await service.stop():
        _end_process(0)


def _end_process(status: int) -> NoReturn:
    """End although threads are still busy: the interpreter would wait for them, perhaps for ever."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _memory_budget(settings: Settings) -> MemoryBudget:
    limit = settings.model_load_memory_limit
    return MemoryBudget(available_memory, None if limit == "off" else limit)


def _completion(settings: Settings) -> Completion:
    return Completion(max_batch_sizes_from_flags(settings.backend_config), settings.strict_model_config)


def _cache(settings: Settings, clock: LoopClock, registry: Registry) -> ResponseCache | None:
    capacity = capacity_from_flags(settings.cache_config, settings.response_cache_byte_size)
    return ResponseCache(capacity, clock, registry.resolve) if capacity else None


def _controls(settings: Settings, clock: LoopClock) -> Controls:
    return Controls(
        SharedMemory(settings.allow_client_shm),
        Tracer(settings_from_flags(settings.trace_config), clock.now),
        LogSettings(logging.getLogger()),
    )


def _grpc_options(settings: Settings) -> GrpcOptions:
    return GrpcOptions(
        settings.grpc_max_message_size,
        HeaderPattern(settings.grpc_header_forward_pattern),
        COMPRESSION_LEVELS[settings.grpc_infer_response_compression_level],
        max_streams=settings.grpc_max_streams,
        max_connections=settings.grpc_max_connections,
    )


def _metrics_address(service: Service, settings: Settings) -> str:
    return f"http://{settings.metrics_address}:{service.metrics.port}/metrics" if service.metrics else "off"


def _addresses(service: Service, settings: Settings, seconds: float) -> str:
    """What a person who started the server wants to see."""
    lines = [
        f"{settings.id} {'is ready' if service.server.is_ready() else 'is NOT ready'} after {seconds:.1f} s",
        f"  HTTP     http://{settings.http_address}:{service.http.port}  (try /docs)",
        f"  gRPC     {settings.grpc_address}:{service.grpc.port}",
        f"  metrics  {_metrics_address(service, settings)}",
    ]
    for row in service.server.repository_index(only_ready=False).models:
        reason = f"  {row.reason}" if row.reason else ""
        lines.append(f"  model    {row.name} {row.version or '-'} {row.state or 'not loaded'}{reason}")
    return "\n".join(lines)
