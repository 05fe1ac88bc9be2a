"""A model that is made of others: one admission at its entry, steps as the plan says, one answer at the end."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from enginehouse.errors import Cancelled, DeadlineExceeded, Error, NotSupported, Overloaded
from enginehouse.evidence import EngineRecord
from service.admission import Admission
from service.clock import Clock, Timer
from service.ensembles.ensemble_binding import EnsembleBinding, Resolve
from service.ensembles.ensemble_plan import EnsemblePlan
from service.ensembles.ensemble_run import DEFAULT_STEP_LIMIT, EnsembleRun, RunHooks
from service.ensembles.entry_line import EntryLine
from service.ensembles.step_errors import in_ensemble
from service.loaded import LoadedVersion
from service.refusals import cancelled, not_ready, stopped
from service.request import (
    Admitted,
    Infer,
    InferRequest,
    InferResponse,
    Parameter,
    Settle,
    Timings,
    WireTensor,
)
from service.reserved_parameters import take_reserved
from service.scheduling.computation import Execution
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS, deliver
from service.scheduling.queue_policy import queue_policy_from_config
from service.served_model import layout_from_config
from service.statistics.statistics import ModelStatistics

# Requests that may be in one ensemble at once, those that wait at its entry included: as many as wait for one model.
MAX_REQUESTS = 1024


class EnsembleModel:
    """Runs at most `max_inflight_requests` requests at once; further ones wait here, up to a limit.

    They wait by levels of priority as at the first step that has any, and within a level first come first. Everything
    here runs on the thread that owns the queues.
    """

    def __init__(
        self, loaded: LoadedVersion, clock: Clock, infer: Infer, resolve: Resolve, statistics: ModelStatistics
    ) -> None:
        self.name = loaded.config.name
        self.version = str(loaded.version)
        self.degraded = loaded.degraded
        self.note = loaded.note
        self.records: Sequence[EngineRecord] = ()
        self.load_seconds = loaded.load_seconds
        self.statistics = statistics
        self._binding = EnsembleBinding(loaded.config, loaded.labels, resolve)
        self.config = self._binding.config
        self.labels = self._binding.labels
        self._optional = [tensor.name for tensor in loaded.config.input if tensor.optional]
        self._clock = clock
        self._infer = infer
        self._admission = Admission(self.name, layout_from_config(loaded.config), loaded.config.max_batch_size)
        self._policy = queue_policy_from_config(loaded.config)
        self._most_running = loaded.config.ensemble_scheduling.max_inflight_requests
        self._running: set[_Pending] = set()
        self._line: EntryLine[_Pending] = EntryLine()
        self._is_draining = False
        self._on_quiet: Callable[[], None] | None = None

    @property
    def time_to_spare(self) -> float:
        """Its steps count for themselves."""
        return math.inf

    @property
    def absence(self) -> str:
        """Why a step computes nothing now; empty if all do."""
        return self._binding.absence

    @property
    def queue_depth(self) -> int:
        """Requests that wait at the entry; those that wait for a step are counted there."""
        return len(self._line)

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        """Admit a request; `settle` is called exactly once, perhaps before this returns; None if it was refused."""
        try:
            pending = self._admitted(request, settle)
        except Error as refusal:
            self._count_failure(request, refusal)
            deliver(settle, refusal, self.name)
            return None
        if self._has_room() and not self._line:
            self._begin(pending)
        else:
            self._queue(pending)
        return pending

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Refuse what is new, finish what is here, then call back."""
        self._is_draining = True
        self._on_quiet = on_drained
        self._tell_if_quiet()

    def abandon(self) -> None:
        """Tell everybody who still waits for an answer that none will come."""
        reason = stopped(self.name, self.version)
        for pending in [*self._line, *self._running]:
            pending.stop(reason)

    def close(self) -> None:
        """Nothing is held that `drain` or `abandon` did not give back: the steps belong to their own models."""

    def _admitted(self, request: InferRequest, settle: Settle) -> "_Pending":
        if self._is_draining:
            raise not_ready(self.name, self.version)
        self._hold()
        take_reserved(request)
        rows, _ = self._admission.check(request)
        if self._binding.plan.is_decoupled and request.emit is None:
            raise NotSupported(
                f"model '{self.name}' is decoupled: it may answer any number of times. Ask it over a stream."
            )
        if len(self._line) + len(self._running) >= max(MAX_REQUESTS, self._most_running):
            raise Overloaded(
                f"ensemble '{self.name}' has {len(self._running)} requests in flight and {len(self._line)} that wait. "
                "Send fewer at once."
            )
        request.deadline, _ = self._policy.limits(request, self._clock.now())
        return _Pending(self, self._binding.plan, request, settle, rows, self._clock.now())

    def _hold(self) -> None:
        """Say and do what follows from the models that answer now; raises `NotReady` if that is nothing."""
        self._binding.hold()
        self.config = self._binding.config
        self.labels = self._binding.labels

    def _has_room(self) -> bool:
        return not self._most_running or len(self._running) < self._most_running

    def _queue(self, pending: "_Pending") -> None:
        self._line.add(self._binding.levels.level_of(pending.request.priority), pending)
        if pending.request.deadline is not None:
            seconds = max(pending.request.deadline - pending.arrived_at, LEAST_TIMEOUT_SECONDS)
            reason = DeadlineExceeded(f"model '{self.name}': Request timeout expired while it waited at the entry.")
            pending.timer = self._clock.call_later(seconds, pending.stop, reason)

    def _begin(self, pending: "_Pending") -> None:
        self._running.add(pending)
        if pending.timer is not None:
            pending.timer.cancel()
        pending.begun_at = self._clock.now()
        outputs = pending.request.outputs
        route = (
            self._binding.route if pending.plan is self._binding.plan and not outputs else pending.plan.route(outputs)
        )
        limit = self._most_running or DEFAULT_STEP_LIMIT
        hooks = RunHooks(pending.answer, pending.end, lambda: self._on_gone(pending))
        pending.run = EnsembleRun(pending.plan, route, pending.request, self._infer, self._clock, hooks, limit)
        pending.run.begin(self._optional)

    def _on_gone(self, pending: "_Pending") -> None:
        self._running.discard(pending)
        # Each knows the other, and the run all its tensors.
        pending.run = None
        self._clock.call_soon(self._begin_next)

    def _begin_next(self) -> None:
        while self._line and self._has_room():
            self._begin(self._line.take())
        self._tell_if_quiet()

    def leave(self, pending: "_Pending") -> None:
        """Take a request out that waits at the entry."""
        self._line.remove(pending)
        self._clock.call_soon(self._tell_if_quiet)

    def succeed(self, pending: "_Pending", response: InferResponse) -> None:
        """Count a request that went well as one execution, as its steps did in theirs, and answer it."""
        timings = response.timings
        self.statistics.count_batch(
            Execution(pending.rows, timings.compute_input, timings.compute_infer, timings.compute_output)
        )
        own = replace(timings, queue=pending.begun_at - pending.arrived_at)
        seconds = self._clock.now() - (pending.request.received_at or pending.arrived_at)
        self.statistics.count_success(pending.rows, own, seconds, int(time.time() * 1000))
        deliver(pending.settle, response, self.name)

    def fail(self, pending: "_Pending", reason: Error) -> None:
        """Count a request that did not, and say why."""
        self._count_failure(pending.request, reason)
        deliver(pending.settle, reason, self.name)

    def _count_failure(self, request: InferRequest, reason: Error) -> None:
        self.statistics.count_failed(request, reason, self._clock.now())

    def _tell_if_quiet(self) -> None:
        if self._on_quiet is not None and not self._running and not self._line:
            callback, self._on_quiet = self._on_quiet, None
            callback()


class _Pending:
    """One request at an ensemble: it waits at the entry, then it runs, and it is answered once."""

    def __init__(
        self,
        model: EnsembleModel,
        plan: EnsemblePlan,
        request: InferRequest,
        settle: Settle,
        rows: int,
        now: float,
    ) -> None:
        self.plan = plan
        self.request = request
        self.settle = settle
        self.rows = rows
        self.arrived_at = now
        self.begun_at = now
        self.timer: Timer | None = None
        self.run: EnsembleRun | None = None
        self._model = model
        self._is_answered = False

    def cancel(self) -> None:
        """The caller left."""
        self.stop(cancelled(self._model.name))

    def stop(self, reason: Error) -> None:
        """End it now, wherever it is."""
        if self.run is not None:
            self.run.stop(reason)
        elif not self._is_answered:
            if self.timer is not None:
                self.timer.cancel()
            self._model.leave(self)
            self.end(reason)

    def answer(self, outputs: tuple[WireTensor, ...], parameters: Mapping[str, Parameter]) -> None:
        """Take a complete set of outputs: the only one, or one of those that a decoupled ensemble gives."""
        response = self._response(outputs, parameters)
        emit = self.request.emit
        if emit is not None and self.plan.is_decoupled:
            deliver(lambda _: emit(response), response, self._model.name)
        else:
            self._is_answered = True
            self._model.succeed(self, response)

    def end(self, reason: Error | None) -> None:
        """Take the end: nothing more will come."""
        if self._is_answered:
            return
        self._is_answered = True
        if reason is None:
            self._model.succeed(self, self._response((), {}))
        else:
            self._model.fail(self, reason if isinstance(reason, Cancelled) else in_ensemble(self._model.name, reason))

    def _response(self, outputs: tuple[WireTensor, ...], parameters: Mapping[str, Parameter]) -> InferResponse:
        assert self.run is not None
        spent = self.run.spent
        request = self.request
        timings = Timings(
            decode=request.decode_seconds,
            queue=request.unread_seconds + self.begun_at - self.arrived_at + spent.queue,
            compute_input=spent.compute_input,
            compute_infer=spent.compute_infer,
            compute_output=spent.compute_output,
            batch_rows=self.rows,
        )
        return InferResponse(self._model.name, self._model.version, request.id, outputs, timings, parameters)
