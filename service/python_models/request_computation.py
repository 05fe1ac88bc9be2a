"""Hands the requests of a batch to a Python model one by one, and each of its responses to whom it belongs."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

from enginehouse.errors import EngineFailed, Error, NotSupported
from enginehouse.python_engine import Job, PythonEngine, Reply
from enginehouse.python_model import Position
from enginehouse.sequence_config import Control
from enginehouse.tensor import Tensors
from service.clock import Clock
from service.request import InferResponse, SequencePosition, Timings, WireTensor
from service.scheduling.computation import Answer, Execution
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout, join, split
from service.sequences.sequence_computation import control_array
from service.statistics.response_statistics import Outcome, ResponseStatistics

_log = logging.getLogger(__name__)

OPEN = Answer()
"""Of a request whose last response comes after the batch that it ran in; `OpenRequests` waits for it."""

Finish = Callable[[Pending, Answer], None]
"""Told of the last response of a request that was left open, on the thread that owns the queue."""


class RequestComputation:
    """Runs a batch in one call of the model's `execute`.

    Args:
        version: of the model, as the protocol spells it.
        clock: of the thread that owns the queue, where responses before the last one are told.
        finish: takes what was left open; None for a model that is not decoupled, which leaves nothing open.
        controls: inputs that say where a request stands in its sequence.
        responses: counts each response of a decoupled model.
    """

    may_run_inline = False

    def __init__(
        self,
        engine: PythonEngine,
        layout: Layout,
        version: str,
        clock: Clock,
        finish: Finish | None = None,
        controls: Sequence[Control] = (),
        responses: ResponseStatistics | None = None,
    ) -> None:
        self.layout = layout
        self.version = version
        self.clock = clock
        self.finish = finish
        self._engine = engine
        self._controls = controls
        self._responses = responses

    def count_response(self, place: int, outcome: Outcome, infer_seconds: float, output_seconds: float) -> None:
        """Count a response at its place; only those of decoupled models have one."""
        if self.finish is not None and self._responses is not None:
            self._responses.count(place, outcome, infer_seconds, output_seconds)

    def compute(self, pendings: Sequence[Pending]) -> list[Answer]:
        """Answer each request; one whose response is an error does not fail the others."""
        start = time.monotonic()
        receptions = [_Reception(self, pending, start) for pending in pendings]
        jobs = [self._job(reception) for reception in receptions]
        joined = time.monotonic()
        self._engine.execute(jobs)
        computed = time.monotonic()
        execution = Execution(sum(pending.rows for pending in pendings), joined - start, computed - joined, 0.0)
        return [reception.answer(execution) for reception in receptions]

    def close(self) -> None:
        self._engine.close()

    def _job(self, reception: "_Reception") -> Job:
        pending = reception.pending
        request = pending.request
        pending.on_cancel = partial(self._engine.cancel, pending)
        pending.on_pace = partial(self._engine.pace, pending)
        return Job(
            feeds={**join([request], self.layout), **self._control_feeds(request.sequence)},
            on_reply=reception.take,
            outputs=request.outputs or tuple(spec.name for spec in self.layout.outputs),
            id=request.id,
            parameters=dict(request.parameters),
            sequence=_position(request.sequence),
            seconds_left=None if request.deadline is None else request.deadline - self.clock.now(),
            owner=pending,
            is_cancelled=lambda: pending.is_cancelled,
        )

    def _control_feeds(self, position: SequencePosition | None) -> Tensors:
        if position is None:
            return {}
        has_rows = self.layout.has_batch_axis
        return {control.name: control_array(control, [position], has_rows) for control in self._controls}


class _Reception:
    """Takes the responses to one request, on any thread."""

    def __init__(self, computation: RequestComputation, pending: Pending, start: float) -> None:
        self.pending = pending
        self._computation = computation
        self._start = start
        self._guard = Lock()
        self._last: Reply | None = None
        self._is_open = False
        self._count = 0
        self._place = 0
        self._responded_at = start
        self._last_at = start
        self._only: tuple[WireTensor, ...] = ()
        self._problem: Error | None = None

    def take(self, reply: Reply) -> None:
        if not reply.is_last:
            self._tell(reply)
            return
        self._last_at = time.monotonic()
        with self._guard:
            self._last = reply
            if not self._is_open:
                return
        execution = Execution(self.pending.rows, 0.0, time.monotonic() - self._start, 0.0)
        computation = self._computation
        assert computation.finish is not None
        computation.clock.call_soon_threadsafe(computation.finish, self.pending, self._answer(reply, execution))

    def answer(self, execution: Execution) -> Answer:
        """What is known when the model's `execute` returned."""
        with self._guard:
            if self._last is None:
                self._is_open = True
                return OPEN
        return self._answer(self._last, execution)

    def _tell(self, reply: Reply) -> None:
        """Pass on a response that is not the last one; a caller who takes only one gets it with the end."""
        came_at = time.monotonic()
        outputs: tuple[WireTensor, ...] = ()
        problem = reply.error
        try:
            outputs = self._outputs(reply)
        except Error as found:
            problem = found
        if problem is not None:
            self._problem = problem
            self._note("fail", came_at, 0.0)
            reply.taken()
            return
        self._note("success", came_at, time.monotonic() - came_at)
        self._count += 1
        if self.pending.request.emit is None:
            self._only = outputs
            reply.taken()
            return
        response = self._response(outputs, reply)
        self._computation.clock.call_soon_threadsafe(_emit, self.pending, response, reply.taken)

    def _answer(self, last: Reply, execution: Execution) -> Answer:
        begun = time.monotonic()
        answer = self._last_answer(last, execution)
        has_failed = last.error is not None or (answer.error is not None and not last.is_empty)
        ended: Outcome = "fail" if has_failed else "empty_response" if last.is_empty else "success"
        self._note("cancel" if self.pending.is_cancelled else ended, self._last_at, time.monotonic() - begun)
        return answer

    def _note(self, outcome: Outcome, came_at: float, output_seconds: float) -> None:
        """Count a response whose outputs were taken over."""
        self._computation.count_response(self._place, outcome, came_at - self._responded_at, output_seconds)
        self._place += 1
        self._responded_at = came_at + output_seconds

    def _last_answer(self, last: Reply, execution: Execution) -> Answer:
        try:
            outputs = () if last.is_empty else self._outputs(last)
        except Error as problem:
            return Answer(error=problem)
        if last.error is not None or self._problem is not None:
            return Answer(error=last.error or self._problem)
        if self._count and self.pending.request.emit is None:
            if self._count > 1 or not last.is_empty:
                return Answer(error=self._too_many(self._count + (not last.is_empty)))
            outputs = self._only
        return Answer(outputs, execution, parameters=last.parameters)

    def _outputs(self, reply: Reply) -> tuple[WireTensor, ...]:
        if reply.error is not None:
            return ()
        request, layout = self.pending.request, self._computation.layout
        if self._computation.finish is not None:
            # Each response of a decoupled model may hold other outputs.
            wanted = request.outputs or tuple(spec.name for spec in layout.outputs)
            given = tuple(name for name in wanted if name in reply.outputs)
            if not given:
                return ()
            request = replace(request, outputs=given)
        try:
            return split(reply.outputs, [request], [self.pending.rows], layout)[0]
        except (TypeError, ValueError) as problem:
            raise EngineFailed(f"a response of the model has an output that cannot be sent: {problem}.") from problem

    def _response(self, outputs: tuple[WireTensor, ...], reply: Reply) -> InferResponse:
        request, pending = self.pending.request, self.pending
        timings = Timings(
            decode=request.decode_seconds,
            queue=request.unread_seconds + self._start - pending.queued_at,
            compute_input=0.0,
            compute_infer=time.monotonic() - self._start,
            compute_output=0.0,
            batch_rows=pending.rows,
        )
        version = self._computation.version
        return InferResponse(request.model_name, version, request.id, outputs, timings, reply.parameters)

    def _too_many(self, count: int) -> NotSupported:
        name = self.pending.request.model_name
        return NotSupported(
            f"model '{name}' gave {count} responses to a caller who takes one; ask it through a stream."
        )


def _emit(pending: Pending, response: InferResponse, taken: Callable[[], None]) -> None:
    """Pass a response on, if anybody still waits for it; only then may the model send more than a few others."""
    emit = pending.request.emit
    try:
        if emit is not None and not pending.is_settled:
            emit(response)
    except Exception:
        # A closed transport may raise anything; the answer has nobody to go to.
        _log.exception("the caller of model '%s' could not take a response", response.model_name)
    finally:
        taken()


def _position(position: SequencePosition | None) -> Position | None:
    return None if position is None else Position(position.id, position.is_start, position.is_end)
