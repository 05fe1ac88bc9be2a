"""Requests go to a Python model one by one, and each response to its own caller."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed, InvalidInput, NotReady, NotSupported
from enginehouse.python_engine import Job, Reply
from enginehouse.tensor import TensorSpec
from service.clock import FakeClock
from service.python_models.request_computation import OPEN, RequestComputation
from service.request import InferResponse, SequencePosition, pace
from service.scheduling.computation import Answer
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout
from service.statistics.response_statistics import ResponseStatistics
from tests.service.conftest import X, Y, make_request

Z = TensorSpec("z", DTYPES["FP32"], (-1, 2))
LAYOUT = Layout((X,), (Y, Z), {}, True)


@dataclass
class FakeModel:
    """Stands for the process: the test says what is replied, and when."""

    reply: Callable[[Job], Sequence[Reply]]
    jobs: list[Job] = field(default_factory=list)
    cancelled: list[object] = field(default_factory=list)
    paced: list[tuple[object, bool]] = field(default_factory=list)
    failure: Exception | None = None

    def execute(self, jobs: Sequence[Job]) -> None:
        if self.failure is not None:
            raise self.failure
        self.jobs += jobs
        for job in jobs:
            for reply in self.reply(job):
                job.on_reply(reply)

    def cancel(self, owner: object) -> None:
        self.cancelled.append(owner)

    def pace(self, owner: object, is_behind: bool) -> None:
        self.paced.append((owner, is_behind))

    def close(self) -> None: ...


class Bench:
    def __init__(self, reply: Callable[[Job], Sequence[Reply]], is_decoupled: bool = False) -> None:
        self.clock = FakeClock()
        self.model = FakeModel(reply)
        self.finished: list[tuple[Pending, Answer]] = []
        finish = (lambda pending, answer: self.finished.append((pending, answer))) if is_decoupled else None
        engine: Any = self.model
        self.responses = ResponseStatistics()
        self.computation = RequestComputation(engine, LAYOUT, "3", self.clock, finish, responses=self.responses)

    def compute(self, *pendings: Pending) -> list[Answer]:
        return self.computation.compute(pendings)

    def outcomes(self) -> dict[int, dict[str, int]]:
        """What the responses at each place became."""
        names = ("success", "fail", "empty_response", "cancel")
        counted = {place: {name: getattr(row, name).count for name in names} for place, row in self.responses.places()}
        return {place: {name: count for name, count in row.items() if count} for place, row in counted.items()}


def pending(value: float = 1, **fields: Any) -> Pending:
    return Pending(make_request([value], **fields), lambda _: None, 1, None)


def both(value: float) -> dict[str, Any]:
    row = np.full((1, 2), value, np.float32)
    return {"y": row, "z": row + 1}


def twice(job: Job) -> list[Reply]:
    return [Reply(both(2 * float(job.feeds["x"][0, 0])), {"told": job.id})]


def numbers(answer: Answer | InferResponse) -> dict[str, float]:
    return {one.name: float(np.frombuffer(one.data, np.float32)[0]) for one in answer.outputs}


def test_each_request_gets_its_own_outputs_and_parameters() -> None:
    bench = Bench(twice)
    one, other = bench.compute(pending(1, id="a"), pending(5, id="b", outputs=("z",)))
    assert (numbers(one), one.parameters) == ({"y": 2, "z": 3}, {"told": "a"})
    assert (numbers(other), other.parameters) == ({"z": 11}, {"told": "b"})
    assert one.execution is other.execution
    assert one.execution is not None
    assert one.execution.rows == 2


def test_the_model_is_told_what_the_caller_said() -> None:
    bench = Bench(twice)
    bench.clock.time = 10.0
    sequence = SequencePosition("s", is_start=True)
    asked = pending(1, id="a", parameters={"p": 1}, outputs=("z",), sequence=sequence, deadline=12.5)
    bench.compute(asked)
    (job,) = bench.model.jobs
    assert (job.id, job.parameters, job.outputs, job.seconds_left) == ("a", {"p": 1}, ("z",), 2.5)
    assert job.sequence is not None
    assert (job.sequence.id, job.sequence.is_start, job.sequence.is_end) == ("s", True, False)
    assert job.owner is asked


def test_an_error_is_only_its_own_requests() -> None:
    def reply(job: Job) -> list[Reply]:
        return [Reply(error=InvalidInput("no"))] if job.id == "bad" else twice(job)

    answers = Bench(reply).compute(pending(id="good"), pending(id="bad"), pending(id="good"))
    assert [str(answer.error or "") for answer in answers] == ["", "no", ""]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.zeros((1, 2), np.float32)}, "gave no output 'z'"),
        ({**both(1), "z": np.zeros((3, 2), np.float32)}, "for 1 rows"),
        ({**both(1), "z": np.zeros((1, 2), np.int8)}, "int8"),
    ],
)
def test_outputs_that_are_not_what_the_configuration_says_fail_one_request(
    outputs: dict[str, Any], message: str
) -> None:
    def reply(job: Job) -> list[Reply]:
        return [Reply(outputs)] if job.id == "bad" else twice(job)

    good, bad = Bench(reply).compute(pending(), pending(id="bad"))
    assert good.error is None
    assert isinstance(bad.error, EngineFailed)
    assert message in str(bad.error)


def test_what_fails_all_of_them_is_raised() -> None:
    bench = Bench(twice)
    bench.model.failure = NotReady("starting")
    with pytest.raises(NotReady, match="starting"):
        bench.compute(pending())


def test_responses_before_the_last_are_told_on_the_queues_thread_in_order() -> None:
    def reply(job: Job) -> list[Reply]:
        return [Reply({"y": both(1)["y"]}, is_last=False), Reply(both(2), is_last=False), Reply(is_empty=True)]

    heard: list[InferResponse] = []
    bench = Bench(reply, is_decoupled=True)
    (answer,) = bench.compute(pending(emit=heard.append, id="a"))
    assert heard == []
    bench.clock.run_ready()
    assert [numbers(one) for one in heard] == [{"y": 1}, {"y": 2, "z": 3}]
    assert {(one.model_name, one.model_version, one.id) for one in heard} == {("m", "3", "a")}
    assert (answer.error, answer.outputs) == (None, ())


def test_a_caller_who_left_hears_nothing_more_and_one_that_fails_hurts_nobody() -> None:
    def reply(job: Job) -> list[Reply]:
        return [Reply(both(1), is_last=False), Reply(is_empty=True)]

    def fail(_: InferResponse) -> None:
        raise OSError("closed")

    heard: list[InferResponse] = []
    bench = Bench(reply, is_decoupled=True)
    gone = pending(emit=heard.append)
    bench.compute(gone, pending(emit=fail), pending(emit=heard.append))
    gone.settle(InvalidInput("left"))
    bench.clock.run_ready()
    assert len(heard) == 1


def test_a_last_response_after_the_batch_finishes_its_request() -> None:
    bench = Bench(lambda _: [], is_decoupled=True)
    asked = pending()
    assert bench.compute(asked) == [OPEN]
    other = threading.Thread(target=bench.model.jobs[0].on_reply, args=(Reply(both(4)),))
    other.start()
    other.join()
    assert bench.finished == []
    bench.clock.run_ready()
    ((found, answer),) = bench.finished
    assert found is asked
    assert numbers(answer) == {"y": 4, "z": 5}
    assert answer.execution is not None


@pytest.mark.parametrize(
    ("counts", "is_told"), [((1, False), True), ((0, True), True), ((2, False), False), ((1, True), False)]
)
def test_a_caller_who_takes_one_response_gets_the_only_one(counts: tuple[int, bool], is_told: bool) -> None:
    before, has_last = counts

    def reply(job: Job) -> list[Reply]:
        return [Reply(both(1), is_last=False)] * before + [Reply(both(1)) if has_last else Reply(is_empty=True)]

    (answer,) = Bench(reply, is_decoupled=True).compute(pending())
    if is_told:
        assert numbers(answer) == {"y": 1, "z": 2}
    else:
        assert isinstance(answer.error, NotSupported)
        assert "ask it through a stream" in str(answer.error)


def test_a_response_in_between_that_cannot_be_sent_is_the_end() -> None:
    def reply(job: Job) -> list[Reply]:
        return [Reply({"y": np.zeros((9, 9), np.float32)}, is_last=False), Reply(is_empty=True)]

    (answer,) = Bench(reply, is_decoupled=True).compute(pending(emit=lambda _: None))
    assert isinstance(answer.error, EngineFailed)


def test_a_cancel_reaches_the_model_while_it_runs() -> None:
    bench = Bench(twice)
    asked = pending()
    asked.cancel()
    bench.compute(asked)
    assert bench.model.jobs[0].is_cancelled()
    asked.cancel()
    assert bench.model.cancelled == [asked]
    asked.settle(InvalidInput("over"))
    asked.cancel()
    assert bench.model.cancelled == [asked], "one that is answered is nobody's to cancel"


def test_a_model_hears_that_its_caller_is_behind_and_caught_up_while_it_answers() -> None:
    bench = Bench(lambda _: [], is_decoupled=True)
    asked = pending(emit=lambda _: None)
    pace(asked, is_behind=True)
    bench.compute(asked)
    pace(asked, is_behind=True)
    pace(asked, is_behind=False)
    asked.settle(InvalidInput("over"))
    pace(asked, is_behind=True)
    pace(None, is_behind=True)
    assert bench.model.paced == [(asked, True), (asked, False)]


def test_a_response_counts_as_taken_once_its_caller_has_it_or_nobody_does() -> None:
    taken: list[str] = []

    def reply(job: Job) -> list[Reply]:
        return [Reply(both(1), is_last=False, taken=lambda: taken.append(job.id)), Reply(is_empty=True)]

    def fail(_: InferResponse) -> None:
        assert "heard" not in taken
        raise ConnectionError("gone")

    bench = Bench(reply, is_decoupled=True)
    left = pending(id="left", emit=lambda _: taken.append("never"))
    bench.compute(pending(id="heard", emit=fail), left, pending(id="one"))
    assert taken == ["one"], "who takes one response takes it with the end"
    left.settle(InvalidInput("over"))
    bench.clock.run_ready()
    assert taken == ["one", "heard", "left"]


def test_each_response_of_a_decoupled_model_is_counted_at_its_place() -> None:
    def reply(job: Job) -> list[Reply]:
        if job.id == "bad":
            return [Reply(both(1), is_last=False), Reply(error=InvalidInput("no"))]
        if job.id == "one":
            return [Reply(both(1))]
        return [Reply(both(1), is_last=False), Reply(both(2), is_last=False), Reply(is_empty=True)]

    bench = Bench(reply, is_decoupled=True)
    left = pending(emit=lambda _: None)
    left.cancel()
    bench.compute(pending(emit=lambda _: None), pending(id="bad", emit=lambda _: None), pending(id="one"), left)
    assert bench.outcomes() == {
        0: {"success": 4},
        1: {"success": 2, "fail": 1},
        2: {"empty_response": 1, "cancel": 1},
    }
    ((_, first), *_) = bench.responses.places()
    assert (first.compute_infer.count, first.compute_output.count) == (4, 4)
    assert first.success.seconds == pytest.approx(first.compute_infer.seconds + first.compute_output.seconds)


def test_a_response_that_cannot_be_sent_is_a_failed_one() -> None:
    def reply(job: Job) -> list[Reply]:
        wrong = {"y": np.zeros((9, 9), np.float32)}
        return [Reply(wrong)] if job.id == "last" else [Reply(wrong, is_last=False), Reply(is_empty=True)]

    bench = Bench(reply, is_decoupled=True)
    bench.compute(pending(emit=lambda _: None), pending(id="last"))
    assert bench.outcomes() == {0: {"fail": 2}, 1: {"empty_response": 1}}


def test_what_a_caller_who_takes_one_cannot_take_was_still_given() -> None:
    bench = Bench(lambda _: [Reply(both(1), is_last=False)] * 2 + [Reply(is_empty=True)], is_decoupled=True)
    (answer,) = bench.compute(pending())
    assert isinstance(answer.error, NotSupported)
    assert bench.outcomes() == {0: {"success": 1}, 1: {"success": 1}, 2: {"empty_response": 1}}


def test_responses_of_a_model_that_is_not_decoupled_have_no_places() -> None:
    bench = Bench(twice)
    bench.compute(pending())
    assert bench.outcomes() == {}
