"""A batcher over instances that take time only on a clock that a test moves: minutes of load in a moment."""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from enginehouse.errors import Error
from service.clock import FakeClock
from service.request import InferResponse, Timings
from service.scheduling.batch import BatchPolicy
from service.scheduling.batcher import Batcher
from service.scheduling.computation import Answer, Execution
from service.scheduling.instance import Batch, Offered
from service.scheduling.latency_curve import LatencyCurve, MeasuredPoint
from service.scheduling.objective import Objective
from service.scheduling.queue import Pending
from service.scheduling.queue_policy import QueuePolicy
from service.scheduling.rate_limiter import Permit
from service.scheduling.scheduler import Hooks
from tests.service.conftest import make_request


@dataclass
class Asked:
    """One request, and what became of it."""

    pending: Pending
    arrived_at: float
    answers: list[tuple[float, InferResponse | Error]] = field(default_factory=list)
    started_at: float | None = None

    @property
    def answer(self) -> InferResponse | Error:
        ((_, answer),) = self.answers
        return answer

    @property
    def seconds(self) -> float:
        ((answered_at, _),) = self.answers
        return answered_at - self.arrived_at

    @property
    def is_answered(self) -> bool:
        return isinstance(self.answer, InferResponse)

    @property
    def is_in_time(self) -> bool:
        return self.is_answered and self.answers[0][0] <= self.pending.due + 1e-9


class SimulatedInstance:
    """Takes as long as it is told, and answers everything.

    Attributes:
        seconds_of: what a batch of so many rows takes.
        seconds_unheard: what the loop takes to hear that a batch ended.
    """

    def __init__(self, clock: FakeClock, seconds_of: Callable[[int], float], on_done: Callable[..., None]) -> None:
        self.seconds_of = seconds_of
        self.seconds_unheard = 0.0
        self._clock = clock
        self._on_done = on_done
        self.is_inline = False
        self._running: Batch | None = None
        self.batches: list[Batch] = []

    @property
    def is_busy(self) -> bool:
        """Whether it runs a batch."""
        return self._running is not None

    def start(self, batch: Batch, offered: Offered) -> None:
        assert self._running is None
        self._offered = offered
        self._begin(batch)

    def _begin(self, batch: Batch) -> None:
        self._running = batch
        self.batches.append(batch)
        self._clock.call_later(self.seconds_of(batch.rows) if batch.pendings else 0.0, self._finish, batch)

    def _finish(self, batch: Batch) -> None:
        self._running = None
        batch.end(self._clock.now(), self._offered.take())
        execution = Execution(batch.rows, 0, batch.ended_at - batch.started_at, 0)
        batch.answers = [Answer(execution=execution) for _ in batch.pendings]
        if batch.followed_by is not None:
            self._begin(batch.followed_by)
        if self.seconds_unheard:
            self._clock.call_later(self.seconds_unheard, self._on_done, self, batch)
        else:
            self._on_done(self, batch)


class Simulation:
    """One model under load."""

    def __init__(
        self,
        policy: BatchPolicy,
        seconds_of: Callable[[int], float],
        queue_policy: QueuePolicy | None = None,
        instances: int = 1,
        points: Sequence[MeasuredPoint] = (),
        permits: Sequence[Permit] = (),
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.queue_policy = queue_policy or QueuePolicy()
        slo = self.queue_policy.slo_seconds
        curve = LatencyCurve(max(1, policy.max_batch_rows), points)
        objective = Objective(slo, curve, policy, self.clock) if slo else None
        self.left: list[Pending] = []
        hooks = Hooks(self._settle, lambda pending, _: self.left.append(pending))
        self.batcher = Batcher(policy, self.queue_policy, self.clock, hooks, objective, permits)
        self.instances = [SimulatedInstance(self.clock, seconds_of, self.batcher.on_done) for _ in range(instances)]
        self.batcher.add_instances(self.instances)  # type: ignore[arg-type]
        self.asked: list[Asked] = []
        self.seconds_to_write = 0.0

    def ask(self, rows: int = 1, shape_key: Hashable = None, **fields: Any) -> Asked:
        now = self.clock.now()
        request = make_request([1.0] * rows, received_at=now, **fields)
        request.deadline, delay_at = self.queue_policy.limits(request, now)
        asked = Asked(Pending(request, lambda answer: hear(answer), rows, shape_key, delay_at), now)

        def hear(answer: InferResponse | Error) -> None:
            asked.answers.append((self.clock.now(), answer))

        self.asked.append(asked)
        try:
            self.batcher.admit(asked.pending)
        except Error as refusal:
            hear(refusal)
        return asked

    def watch_order(self) -> None:
        """From now on, fail when somebody runs while one waits who should run before; of a loop that hears at once."""
        queue = self.batcher._queue
        take, leave = queue.take, queue.leave

        def look(taken: Sequence[Pending]) -> None:
            for waiting in queue:
                for pending in taken:
                    assert self._place(pending) <= self._place(waiting), "somebody was overtaken"

        def take_and_look(count: int) -> list[Pending]:
            taken = take(count)
            look(taken)
            return taken

        def leave_and_look(pendings: Sequence[Pending]) -> None:
            leave(pendings)
            look(pendings)

        queue.take, queue.leave = take_and_look, leave_and_look  # type: ignore[method-assign, assignment]

    def _place(self, pending: Pending) -> tuple[float, ...]:
        """Where it stands in the line, told from the promises alone."""
        policy = self.queue_policy.policy_of(pending.level)
        has_stepped_back = policy.is_delayed and pending.request.timeout_seconds > 0 and pending.delay_at is None
        if has_stepped_back:
            return (pending.level, 1, pending.queued_at + pending.request.timeout_seconds)
        return (pending.level, 0, pending.due if self.queue_policy.slo_seconds else pending.queued_at)

    def run_poisson(
        self, rows_per_second: float, seconds: float, seed: int = 0, and_then: float = 10_000
    ) -> list[Asked]:
        """Ask for a row at random moments, however busy it is, and let some time pass behind."""
        rng = random.Random(seed)
        end = self.clock.now() + seconds
        first = len(self.asked)
        while (pause := rng.expovariate(rows_per_second)) + self.clock.now() < end:
            self.clock.advance(pause)
            self.ask()
        self.clock.advance(and_then)
        return self.asked[first:]

    @property
    def batches(self) -> list[Batch]:
        """What ran, but for what had begun with nobody in it."""
        return [batch for instance in self.instances for batch in instance.batches if batch.pendings]

    def _settle(self, batch: Batch) -> None:
        self.clock.time += self.seconds_to_write
        for pending in batch.pendings:
            pending.settle(InferResponse("m", "1", "", (), Timings(0, 0, 0, 0, 0, batch.rows)))
