"""Asks other models on behalf of a Python model: its calls become requests like any other, on the queues' thread."""

from collections.abc import Callable

from enginehouse.dtype import array_from_bytes, bytes_from_array
from enginehouse.errors import Error
from enginehouse.processes.shared_tensors import dtype_of
from enginehouse.python_engine import ModelCall, Reply
from service.clock import Clock
from service.request import Admitted, Infer, InferRequest, InferResponse, SequencePosition, WireTensor
from service.scheduling.queue import Pending


class ModelCalls:
    """Passes calls on from any thread. What a call is made for, it inherits from: deadline, priority and trace."""

    def __init__(self, clock: Clock, infer: Infer) -> None:
        self._clock = clock
        self._infer = infer

    def ask(self, call: ModelCall) -> Callable[[], object]:
        """Ask now; what is returned takes the call back."""
        asked = _Asked(call, self._infer)
        try:
            request = self._request(call, asked)
        except Error as problem:
            call.reply(Reply(error=problem))
            return lambda: None
        self._clock.call_soon_threadsafe(asked.begin, request)
        return lambda: self._clock.call_soon_threadsafe(asked.cancel)

    def _request(self, call: ModelCall, asked: "_Asked") -> InferRequest:
        now = self._clock.now()
        deadlines = [] if call.timeout_seconds is None else [now + call.timeout_seconds]
        priority = 0
        parent_trace = None
        if isinstance(call.owner, Pending):
            priority = call.owner.request.priority
            parent_trace = call.owner.request.trace
            deadlines += [] if call.owner.request.deadline is None else [call.owner.request.deadline]
        position = call.sequence
        tensors = []
        for name, array in call.inputs.items():
            dtype = dtype_of(array)
            tensors.append(WireTensor(name, dtype, array.shape, bytes_from_array(array, dtype)))
        return InferRequest(
            model_name=call.model,
            model_version=call.version,
            inputs=tuple(tensors),
            outputs=tuple(call.outputs),
            parameters=call.parameters,
            priority=priority,
            sequence=None if position is None else SequencePosition(position.id, position.is_start, position.is_end),
            deadline=min(deadlines, default=None),
            emit=asked.emit,
            received_at=now,
            decoded_at=now,
            parent_trace=parent_trace,
        )


class _Asked:
    """One call on its way. All of it runs on the thread that owns the queues."""

    def __init__(self, call: ModelCall, infer: Infer) -> None:
        self._call = call
        self._infer = infer
        self._admitted: Admitted | None = None
        self._count = 0

    def begin(self, request: InferRequest) -> None:
        self._admitted = self._infer(request, self._settle)

    def emit(self, response: InferResponse) -> None:
        self._count += 1
        self._call.reply(_reply(response, is_last=False, is_empty=False))

    def cancel(self) -> None:
        """Nobody waits any more; what is in its queue leaves it."""
        if self._admitted is not None:
            self._admitted.cancel()

    def _settle(self, answer: InferResponse | Error) -> None:
        if isinstance(answer, Error):
            self._call.reply(Reply(error=answer))
        else:
            self._call.reply(_reply(answer, is_last=True, is_empty=bool(self._count) and not answer.outputs))


def _reply(response: InferResponse, is_last: bool, is_empty: bool) -> Reply:
    outputs = {one.name: array_from_bytes(one.data, one.dtype, one.shape) for one in response.outputs}
    return Reply(outputs, dict(response.parameters), None, is_last, is_empty)
