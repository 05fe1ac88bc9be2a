"""An instance runs one batch at a time, of whoever waits on it long enough."""

from typing import Any

from service.clock import FakeClock
from service.request import SequencePosition
from service.scheduling.instance import Batch
from service.scheduling.queue import Pending
from service.sequences.sequence_line import Place, Sequence
from service.sequences.sequence_policy import SequencePolicy
from service.sequences.sequence_runner import SequenceRunner
from tests.service.conftest import make_request

POLICY = SequencePolicy(True, 4, 4, 1, max_queue_delay_seconds=0.5, least_share=0.5)


class Started:
    """Stands for an instance: remembers what it was told to run."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def start(self, batch: Batch) -> None:
        self.batches.append(batch)


def runner_of(policy: SequencePolicy, clock: FakeClock, late: Any = None) -> tuple[SequenceRunner, Started]:
    started = Started()
    return SequenceRunner(started, None, policy, clock, lambda _: None, late or (lambda _: None)), started  # type: ignore[arg-type]


def waiting(runner: SequenceRunner, slot: int, deadline: float | None = None) -> Pending:
    sequence = runner.sequences.setdefault(slot, Sequence(slot + 1, place=Place(slot, 0)))
    request = make_request(sequence=SequencePosition(slot + 1, True), deadline=deadline)
    pending = Pending(request, lambda _: None, 1, None)
    sequence.add(pending)
    return pending


def test_nothing_starts_while_something_runs() -> None:
    runner, started = runner_of(SequencePolicy(True, 4, 4, 1), FakeClock())
    first = waiting(runner, 0)
    runner.run_next()
    second = waiting(runner, 1)
    runner.run_next()
    assert [batch.pendings for batch in started.batches] == [[first]]
    assert [sequence.id for sequence in runner.take_back()] == [1]
    runner.run_next()
    assert [batch.pendings for batch in started.batches] == [[first], [second]]


def test_who_waits_for_company_runs_when_the_time_is_over_or_company_came() -> None:
    clock = FakeClock()
    runner, started = runner_of(POLICY, clock)
    first = waiting(runner, 0)
    runner.run_next()
    clock.advance(0.4)
    assert started.batches == []
    clock.advance(0.1)
    assert [batch.pendings for batch in started.batches] == [[first]]


def test_leaving_ends_the_wait() -> None:
    clock = FakeClock()
    runner, started = runner_of(POLICY, clock)
    waiting(runner, 0)
    runner.run_next()
    runner.leave()
    clock.advance(1)
    assert started.batches == []


def test_late_heads_leave_until_one_is_in_time() -> None:
    clock = FakeClock()
    clock.time = 5
    left: list[Pending] = []

    def leave(pending: Pending) -> None:
        left.append(pending)
        runner.sequences[0].break_at(pending)

    runner, started = runner_of(SequencePolicy(True, 4, 4, 1), clock, leave)
    late = [waiting(runner, 0, deadline=1), waiting(runner, 0, deadline=4)]
    in_time = waiting(runner, 0, deadline=6)
    runner.run_next()
    assert left == late
    assert [batch.pendings for batch in started.batches] == [[in_time]]
