"""One model version that answers requests: its queue, its batcher, its instances and its statistics."""

import logging
import time
from collections.abc import Callable, Sequence

from enginehouse.engine import Engine, Killable
from enginehouse.errors import Error
from enginehouse.evidence import EngineRecord
from enginehouse.model_config import engine_shape, input_specs, output_specs
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.ragged_config import ragged_inputs, scattered_outputs
from service.admission import Admission
from service.clock import Clock
from service.loaded import LoadedVersion
from service.presence import Presence
from service.refusals import not_ready, stopped
from service.request import Admitted, InferRequest, InferResponse, Settle, Timings
from service.reserved_parameters import take_reserved
from service.scheduling.batch import BatchPolicy
from service.scheduling.computation import Computation, Execution
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import Pending, deliver
from service.scheduling.queue_policy import queue_policy_from_config
from service.scheduling.rows import Layout
from service.scheduling.scheduler import Hooks, MakeScheduler
from service.statistics.statistics import ModelStatistics

_log = logging.getLogger(__name__)

# What an engine that did not end while its model was drained may still take.
CLOSE_PATIENCE_SECONDS = 2.0

FAILURE_LOG_SECONDS = 10.0


class ServedModel:
    """Admits, queues, batches and settles. Everything here runs on the thread that owns the queue."""

    def __init__(
        self,
        loaded: LoadedVersion,
        clock: Clock,
        make_scheduler: MakeScheduler,
        make_computation: Callable[[Engine], Computation],
        statistics: ModelStatistics | None = None,
    ) -> None:
        self.config = loaded.config
        self.name = loaded.config.name
        self.version = str(loaded.version)
        self.degraded = loaded.degraded
        self.note = loaded.note
        self.records: Sequence[EngineRecord] = tuple(loaded.records)
        self.load_seconds = loaded.load_seconds
        self.labels = loaded.labels
        self.statistics = statistics or ModelStatistics()
        self._clock = clock
        self._is_draining = False
        self._quiet_until = 0.0
        self._admission = Admission(self.name, layout_from_config(loaded.config), loaded.config.max_batch_size)
        self._queue_policy = queue_policy_from_config(loaded.config)
        self._scheduler = make_scheduler(clock, Hooks(self._settle_batch, self._count_leaving))
        self._instances = [
            Instance(f"{self.name}-{self.version}-{position}", make_computation(engine), clock, self._scheduler.on_done)
            for position, engine in enumerate(loaded.engines)
        ]
        self._engines = tuple(loaded.engines)
        self._presence = Presence(f"model '{self.name}' version {self.version}", self._engines, clock)
        self._scheduler.add_instances(self._instances)

    @property
    def absence(self) -> str:
        """Why no instance computes now: each is in a process of its own that is being started again; or empty."""
        return self._presence.absence

    def watch_presence(self, callback: Callable[[], None]) -> None:
        """Call back each time that the last instance is gone, or one is back."""
        self._presence.watch(callback)

    @property
    def queue_depth(self) -> int:
        """Requests that wait, not counting those that run."""
        return self._scheduler.depth

    @property
    def time_to_spare(self) -> float:
        """Seconds that one more request may spend before it comes here, and be in time; infinity if nobody counts."""
        return self._scheduler.time_to_spare

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        """Admit a request; `settle` is called exactly once, perhaps before this returns.

        Returns:
            The admitted request, for `cancel`; None if it was refused.
        """
        try:
            if self._is_draining:
                raise not_ready(self.name, self.version)
            take_reserved(request)
            rows, shape_key = self._admission.check(request)
            request.deadline, delay_at = self._queue_policy.limits(request, self._clock.now())
            pending = Pending(request, settle, rows, shape_key, delay_at)
            self._scheduler.admit(pending)
        except Error as refusal:
            self._count_failure(request, refusal)
            deliver(settle, refusal, self.name)
            return None
        return pending

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Refuse what is new, finish what is here, then call back. The instances are still to be closed."""
        self._is_draining = True
        self._presence.end()
        self._scheduler.when_quiet(on_drained)

    def abandon(self) -> None:
        """Tell everybody who still waits for an answer that none will come, also of an engine that hangs."""
        reason = stopped(self.name, self.version)
        self._scheduler.clear(reason)
        for pending in self._scheduler.running():
            # Who left before it was heard that its batch had begun was told and counted then.
            if not pending.is_settled:
                self._count_failure(pending.request, reason)
                pending.settle(reason)

    def close(self) -> None:
        """Stop the threads and close the engines; call it from another thread, after `drain`.

        Blocks until what still runs has ended, but not for ever: an engine that hangs is ended with its process if it
        has one of its own, and otherwise left behind.
        """
        self._presence.end()
        for instance, engine in zip(self._instances, self._engines, strict=True):
            try:
                has_ended = instance.close(CLOSE_PATIENCE_SECONDS)
                if not has_ended and isinstance(engine, Killable):
                    engine.kill()
                    has_ended = instance.close(CLOSE_PATIENCE_SECONDS)
                if not has_ended:
                    _log.error("an engine of model '%s' version %s hangs; it is left behind", self.name, self.version)
            except Exception:
                _log.exception("an engine of model '%s' version %s could not be closed", self.name, self.version)

    def _settle_batch(self, batch: Batch) -> None:
        for execution in batch.executions:
            self.statistics.count_batch(execution)
        now = self._clock.now()
        now_ms = int(time.time() * 1000)
        for pending, answer in zip(batch.pendings, batch.answers, strict=True):
            if pending.is_settled:
                continue
            if answer.execution is None:
                assert answer.error is not None
                self._log_failure(answer.error)
                self._count_failure(pending.request, answer.error)
                pending.settle(answer.error)
                continue
            request = pending.request
            timings = _timings(pending, batch, answer.execution)
            self.statistics.count_success(pending.rows, timings, now - _start_of(request, pending), now_ms)
            response = InferResponse(self.name, self.version, request.id, answer.outputs, timings, answer.parameters)
            pending.settle(response)

    def _log_failure(self, error: Error) -> None:
        """At most one line in a while: what the metrics count need not fill the log."""
        now = self._clock.now()
        if now >= self._quiet_until:
            self._quiet_until = now + FAILURE_LOG_SECONDS
            _log.error("model '%s' version %s failed a request: %s", self.name, self.version, error)

    def _count_leaving(self, pending: Pending, reason: Error) -> None:
        self._count_failure(pending.request, reason)

    def _count_failure(self, request: InferRequest, reason: Error) -> None:
        self.statistics.count_failed(request, reason, self._clock.now())


def layout_from_config(config: ModelConfig) -> Layout:
    """Tensors as clients see them, and the engine's shapes where `reshape` makes them differ."""
    reshaped_inputs, reshaped_outputs = (
        {tensor.name: engine_shape(config, tensor) for tensor in tensors if tensor.HasField("reshape")}
        for tensors in (config.input, config.output)
    )
    return Layout(
        input_specs(config),
        output_specs(config),
        reshaped_inputs,
        has_batch_axis=config.max_batch_size > 0,
        engine_output_shapes=reshaped_outputs,
        ragged=ragged_inputs(config),
        scattered=scattered_outputs(config),
        optional=frozenset(tensor.name for tensor in config.input if tensor.optional),
        takes_any_bytes=config.backend == "python" or config.HasField("ensemble_scheduling"),
    )


def policy_from_config(config: ModelConfig) -> BatchPolicy:
    """The batch policy that a complete configuration asks for."""
    batching = config.dynamic_batching
    return BatchPolicy(
        max_batch_rows=config.max_batch_size,
        preferred_rows=tuple(sorted(batching.preferred_batch_size)),
        max_queue_delay_seconds=batching.max_queue_delay_microseconds / 1e6,
        is_dynamic=config.HasField("dynamic_batching"),
        preserves_ordering=batching.preserve_ordering,
    )


def _timings(pending: Pending, batch: Batch, execution: Execution) -> Timings:
    return Timings(
        decode=pending.request.decode_seconds,
        queue=pending.request.unread_seconds + batch.started_at - pending.queued_at,
        compute_input=execution.join_seconds,
        compute_infer=execution.infer_seconds,
        compute_output=execution.split_seconds,
        batch_rows=execution.rows,
    )


def _start_of(request: InferRequest, pending: Pending) -> float:
    return request.received_at or pending.queued_at
