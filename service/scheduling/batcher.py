"""Brings waiting requests and idle instances together, and settles what ran."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from enginehouse.errors import DeadlineExceeded, Error
from service.clock import Clock, Timer
from service.scheduling.batch import BatchPolicy, Run, Wait, schedule
from service.scheduling.instance import Batch, Instance
from service.scheduling.instance_pool import InstancePool
from service.scheduling.objective import Objective
from service.scheduling.occupancy import Occupancy
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS, Pending, RequestQueue
from service.scheduling.queue_policy import QueuePolicy
from service.scheduling.rate_limiter import Permit
from service.scheduling.scheduler import Hooks

# What a loop under load was seen to take from the end of a batch to the start of the next one: up to 3 ms. What is
# offered for longer has to be chosen anew each time that somebody comes.
AHEAD_SECONDS = 0.003


class Batcher:
    """Work-conserving: with an idle instance nobody waits, unless the policy asks for company.

    Everything here runs on the thread that owns the queue. Requests that arrive in one iteration of its loop are
    looked at together, once.

    Args:
        policy: how batches are formed.
        queue_policy: how requests wait.
        clock: of the thread that owns the queue.
        hooks: told of finished batches, and of requests that leave without having run.
        objective: orders by deadline, sizes batches and refuses at the door; None for a model without one.
        permits: of each instance, to run only while there are resources; empty where nothing is limited.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        queue_policy: QueuePolicy,
        clock: Clock,
        hooks: Hooks,
        objective: Objective | None = None,
        permits: Sequence[Permit] = (),
    ) -> None:
        self._queue = RequestQueue(clock, queue_policy, self._on_leave, by_deadline=objective is not None)
        self._policy = policy
        self._clock = clock
        self._hooks = hooks
        self._objective = objective
        self._free_permits = list(permits)
        self._permits: dict[Instance, Permit] = {}
        # What is offered begins with the end of another batch: no permit is granted for that moment, and nobody looks
        # who has lost a place meanwhile.
        self._can_offer = not permits and not queue_policy.steps_back
        self._pool = InstancePool(objective.occupancy if objective else Occupancy(clock))
        self._running: dict[int, Batch] = {}
        self._finished: set[int] = set()
        self._is_flush_due = False
        self._timer: Timer | None = None
        self._is_offer_to_come = False
        self._on_quiet: Callable[[], None] | None = None

    @property
    def depth(self) -> int:
        return self._queue.depth

    @property
    def time_to_spare(self) -> float:
        return math.inf if self._objective is None else self._objective.time_to_spare(self._queue)

    def add_instances(self, instances: Sequence[Instance]) -> None:
        self._pool.add(instances)
        for instance in instances[: len(self._free_permits)]:
            self._permits[instance] = self._free_permits.pop(0)
        if self._objective is not None:
            self._objective.add_instances(len(instances))

    def admit(self, pending: Pending) -> None:
        """Queue a request.

        Raises:
            Overloaded: the line is full, or the answer would come too late.
            DeadlineExceeded: it is too late already.
        """
        if self._objective is not None:
            self._objective.check(pending, self._queue)
        self._queue.admit(pending)
        if not self._is_for_later(pending):
            self._flush_soon()

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nobody waits and nothing runs."""
        self._on_quiet = callback
        self._tell_if_quiet()

    def running(self) -> list[Pending]:
        """Requests that an instance has and did not give back yet, or whose answers wait for others' before them."""
        return [pending for batch in self._running.values() for pending in batch.pendings]

    def clear(self, reason: Error) -> None:
        """Tell everybody in line that nothing more will run."""
        self._queue.clear(reason)

    def on_done(self, instance: Instance, batch: Batch) -> None:
        """Take a finished batch back: the instance gets its next one before the callers hear of this one."""
        seconds = self._pool.take_back(instance, batch)
        # One that held the next would hold all that come after it.
        following, batch.followed_by = batch.followed_by, None
        if following is not None:
            self._queue.leave(following.pendings)
            self._running[id(following)] = following
        if self._objective is not None:
            self._objective.ended(batch, seconds)
        permit = self._permits.get(instance)
        if permit is not None:
            permit.give_back()
        self._start_batches()
        self._settle(batch)
        self._tell_if_quiet()

    def _settle(self, batch: Batch) -> None:
        """Answer a batch, and with ordering preserved no batch before those that started before it."""
        ended_at = self._clock.now()
        self._finished.add(id(batch))
        for each in list(self._running.values()) if self._policy.preserves_ordering else [batch]:
            if id(each) not in self._finished:
                return
            self._finished.remove(id(each))
            del self._running[id(each)]
            self._hooks.settle_batch(each)
        if self._objective is not None:
            # Behind the callers that were woken just now, and so after their answers were written.
            self._clock.call_soon(self._objective.delivered, ended_at)

    def _on_leave(self, pending: Pending, reason: Error) -> None:
        self._hooks.on_leave(pending, reason)
        self._clock.call_soon(self._tell_if_quiet)
        # Others may take its place in the batch that is offered.
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        self._start_batches()

    def _wait(self, choice: Wait) -> None:
        self._stop_waiting()
        self._timer = self._clock.call_later(choice.seconds, self._flush)

    def _stop_waiting(self) -> None:
        self._is_offer_to_come = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_batches(self) -> None:
        self._stop_waiting()
        if not self._pool.withdraw():
            # Who is at the head of the line runs already, and here that is heard next.
            return
        while self._pool.has_idle and (choice := self._choose(self._clock.now())) is not None:
            if isinstance(choice, Wait):
                self._wait(choice)
                return
            instance = self._pool.take_idle()
            permit = self._permits.get(instance)
            if permit is None:
                self._run(instance, choice)
            elif permit.ask(partial(self._on_grant, instance)):
                # To ask may have let others run first, also from this line.
                self._on_grant(instance)
        if self._can_offer:
            self._offer_next()

    def _offer_next(self) -> None:
        """Let an instance that is nearly free begin its next batch by itself.

        Otherwise it would be idle until a busy loop hears that it is free and finds the time to say what is next.
        """
        end = self._pool.first_end()
        if end is None or not self._may_offer():
            return
        patience = end - AHEAD_SECONDS - self._clock.now()
        if patience > 0:
            self._wait(Wait(max(patience, LEAST_TIMEOUT_SECONDS)))
            self._is_offer_to_come = True
            return
        choice = self._choose(max(end, self._clock.now()))
        if isinstance(choice, Run):
            self._pool.offer(self._batch_of(self._queue.head(choice.count)))

    def _is_for_later(self, pending: Pending) -> bool:
        """Whether it changes nothing that one more waits: what is next is not chosen yet, or is full without it."""
        if self._is_offer_to_come:
            return True
        offered = self._pool.offered
        full_rows = self._policy.full_rows if self._objective is None else self._objective.batch_rows
        if offered is None or offered.rows < full_rows:
            return False
        # An instance that begins it leaves out who left, at any moment, and perhaps everybody.
        return all((last.level, last.due) <= (pending.level, pending.due) for last in offered.pendings[-1:])

    def _may_offer(self) -> bool:
        """Whether the next batch is to begin whenever an instance is free."""
        if self._objective is None and self._policy.max_queue_delay_seconds > 0:
            return self._queue.rows >= self._policy.full_rows
        return self._queue.depth > 0

    def _choose(self, start_at: float) -> Run | Wait | None:
        """What an instance runs that is free then; None if nobody is left who waits."""
        while self._queue.depth:
            choice: Run | Wait
            if self._objective is None:
                choice = schedule(self._queue, self._policy, start_at)
            else:
                plan = self._objective.plan(self._queue, start_at)
                self._refuse_late(plan.late)
                if not plan.count:
                    continue
                choice = Run(plan.count)
            if isinstance(choice, Wait) or not self._queue.refuse_expired(choice.count):
                return choice
        return None

    def _refuse_late(self, count: int) -> None:
        for pending in self._queue.head(count):
            name = pending.request.model_name
            self._queue.refuse(pending, DeadlineExceeded(f"model '{name}': it cannot be answered before its deadline."))

    def _run(self, instance: Instance, choice: Run) -> None:
        batch = self._batch_of(self._queue.take(choice.count))
        self._running[id(batch)] = batch
        self._pool.run(instance, batch)

    def _batch_of(self, pendings: list[Pending]) -> Batch:
        return Batch(pendings, sum(pending.rows for pending in pendings), self._clock.now())

    def _on_grant(self, instance: Instance) -> None:
        """An instance that waited for its resources has them; whoever waited for it may have left or been served."""
        choice = self._choose(self._clock.now())
        if isinstance(choice, Run):
            self._run(instance, choice)
            return
        self._permits[instance].give_back(has_run=False)
        self._pool.put_back(instance)
        if choice is not None:
            self._wait(choice)

    def _tell_if_quiet(self) -> None:
        if self._on_quiet is None or self._running or self._queue.depth:
            return
        callback, self._on_quiet = self._on_quiet, None
        for permit in self._permits.values():
            permit.leave()
        callback()
