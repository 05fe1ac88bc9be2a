"""What a Python model asks becomes a request like any other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from enginehouse.errors import Error, InvalidInput, NotFound
from enginehouse.python_engine import ModelCall, Reply
from enginehouse.python_model import Position
from service.clock import FakeClock
from service.python_models.model_calls import ModelCalls
from service.request import Admitted, InferRequest, InferResponse, SequencePosition, Settle, Timings
from service.scheduling.queue import Pending
from tests.service.conftest import make_request, tensor

NO_TIME = Timings(0, 0, 0, 0, 0, 1)


class FakeAdmitted:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Bench:
    """A server that keeps what it is asked."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.calls = ModelCalls(self.clock, self.infer)
        self.asked: list[tuple[InferRequest, Settle]] = []
        self.admitted = FakeAdmitted()
        self.replies: list[Reply] = []

    def infer(self, request: InferRequest, settle: Settle) -> Admitted:
        self.asked.append((request, settle))
        return self.admitted

    def ask(self, **fields: Any) -> Callable[[], object]:
        values: dict[str, Any] = {
            "model": "other",
            "version": "2",
            "inputs": {"x": np.ones((1, 2), np.float32)},
            "outputs": ("y",),
            "parameters": {"p": 1},
            "sequence": None,
            "timeout_seconds": None,
            "owner": None,
        }
        return self.calls.ask(ModelCall(**{**values, **fields}, reply=self.replies.append))


def answer(value: float | None) -> InferResponse:
    outputs = () if value is None else (tensor(np.full((1, 2), value, np.float32), "y"),)
    return InferResponse("other", "2", "", outputs, NO_TIME, {"told": 1})


def test_a_call_is_asked_on_the_queues_thread_and_answered_once() -> None:
    bench = Bench()
    bench.ask(sequence=Position("s", is_end=True))
    assert bench.asked == []
    bench.clock.run_ready()
    ((request, settle),) = bench.asked
    assert (request.model_name, request.model_version, request.outputs) == ("other", "2", ("y",))
    assert request.parameters == {"p": 1}
    assert request.sequence == SequencePosition("s", is_end=True)
    assert bytes(request.inputs[0].data) == np.ones(2, np.float32).tobytes()
    settle(answer(5))
    (reply,) = bench.replies
    assert reply.outputs["y"].tolist() == [[5, 5]]
    assert (reply.parameters, reply.is_last, reply.is_empty) == ({"told": 1}, True, False)


def test_it_inherits_deadline_priority_and_trace_of_what_it_is_for() -> None:
    bench = Bench()
    bench.clock.time = 10.0
    owner = Pending(make_request(deadline=12.0, priority=3, trace=7), lambda _: None, 1, None)
    for timeout, expected in ((None, 12.0), (5.0, 12.0), (1.0, 11.0)):
        bench.ask(owner=owner, timeout_seconds=timeout)
        bench.clock.run_ready()
        request, _ = bench.asked[-1]
        assert (request.deadline, request.priority, request.parent_trace) == (expected, 3, 7)
    bench.ask(timeout_seconds=1.0)
    bench.clock.run_ready()
    assert bench.asked[-1][0].deadline == 11.0


def test_a_stream_of_answers_ends_with_an_empty_one() -> None:
    bench = Bench()
    bench.ask()
    bench.clock.run_ready()
    ((request, settle),) = bench.asked
    assert request.emit is not None
    request.emit(answer(1))
    settle(answer(None))
    assert [(reply.is_last, reply.is_empty) for reply in bench.replies] == [(False, False), (True, True)]


def test_an_error_and_a_wrong_array_are_replies() -> None:
    bench = Bench()
    bench.ask()
    bench.clock.run_ready()
    problem: Error = NotFound("no such model")
    bench.asked[0][1](problem)
    bench.ask(inputs={"x": np.zeros(2, np.complex64)})
    assert [type(reply.error) for reply in bench.replies] == [NotFound, InvalidInput]
    assert len(bench.asked) == 1


def test_a_call_that_is_taken_back_leaves_its_queue() -> None:
    bench = Bench()
    take_back = bench.ask()
    take_back()
    assert not bench.admitted.is_cancelled
    bench.clock.run_ready()
    assert len(bench.asked) == 1
    assert bench.admitted.is_cancelled
