"""Sequence batching: each sequence of requests keeps to one instance, and its requests run one after the other."""

import math
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Several
from heapq import heappop, heappush

from enginehouse.errors import Cancelled, DeadlineExceeded, Error, InvalidInput, Overloaded
from enginehouse.sequence_config import check_id
from service.clock import Clock
from service.refusals import came_too_late, cancelled, waited_too_long
from service.request import SequencePosition
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import LEAST_TIMEOUT_SECONDS, Pending
from service.scheduling.rate_limiter import Permit
from service.scheduling.scheduler import Hooks
from service.sequences.sequence_line import Place, Sequence
from service.sequences.sequence_policy import SequencePolicy
from service.sequences.sequence_runner import SequenceRunner


class SequenceBatcher:
    """Gives sequences their places, and ends them. Everything here runs on the thread that owns the queue.

    A sequence lives from its start to its end, or until nobody sent a request of it for too long. While all places
    are taken, new sequences wait in the order they came. A request that leaves before it ran takes along all that
    built on it: a state that lacks a step would answer wrong.

    Args:
        model: its name, for messages.
        policy: how sequences get their turn.
        max_queue_size: requests that may wait; 0 for any number.
        clock: of the thread that owns the queue.
        hooks: told of finished batches, and of requests that leave without having run.
        permits: of each instance, to run only while there are resources; empty where nothing is limited.
    """

    def __init__(
        self,
        model: str,
        policy: SequencePolicy,
        max_queue_size: int,
        clock: Clock,
        hooks: Hooks,
        permits: Several[Permit] = (),
    ) -> None:
        self._model = model
        self._policy = policy
        self._max_queue_size = max_queue_size
        self._clock = clock
        self._hooks = hooks
        self._permits = list(permits)
        self._runners: list[SequenceRunner] = []
        self._free: list[Place] = []
        self._open: dict[int | str, Sequence] = {}
        self._backlog: OrderedDict[Sequence, None] = OrderedDict()
        self._of: dict[Pending, Sequence] = {}
        self._is_flush_due = False
        self._on_quiet: Callable[[], None] | None = None
        self._on_over: Callable[[], None] | None = None

    @property
    def depth(self) -> int:
        return len(self._of)

    @property
    def time_to_spare(self) -> float:
        return math.inf

    def knows(self, sequence_id: int | str) -> bool:
        """Whether a sequence of this name is open."""
        return sequence_id in self._open

    def add_instances(self, instances: Several[Instance]) -> None:
        for instance in instances:
            permit = self._permits.pop(0) if self._permits else None
            heappush(self._free, Place(0, len(self._runners)))
            self._runners.append(
                SequenceRunner(instance, permit, self._policy, self._clock, self._forget, self._expire)
            )

    def admit(self, pending: Pending) -> None:
        """Let a request join its sequence.

        Raises:
            InvalidInput: it names no sequence, one that did not start, or holds more than one row.
            DeadlineExceeded: its deadline has passed already.
            Overloaded: too many requests wait; nothing was kept.
        """
        position = self._checked(pending)
        sequence = self._open.get(position.id)
        if sequence is None:
            sequence = self._start(position)
        sequence.add(pending)
        if not sequence.is_open:
            self._untrack(sequence)
        pending.queue = self
        pending.queued_at = self._clock.now()
        if pending.request.deadline is not None:
            seconds = max(pending.due - pending.queued_at, LEAST_TIMEOUT_SECONDS)
            pending.timer = self._clock.call_later(seconds, self._expire, pending)
        self._of[pending] = sequence
        self._flush_soon()

    def cancel(self, pending: Pending) -> bool:
        """Take out a request whose caller left, with all that built on it; False if it is running or settled."""
        return self._leave(pending, cancelled(self._model), Cancelled)

    def running(self) -> list[Pending]:
        """Requests that an instance has and did not give back yet."""
        return [pending for runner in self._runners if runner.batch for pending in runner.batch.pendings]

    def clear(self, reason: Error) -> None:
        """Tell everybody who waits that nothing more will run, and end all sequences."""
        for pending in reversed(list(self._of)):
            self._leave(pending, reason, Cancelled)
        for sequence in list(self._open.values()):
            self._close(sequence)

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nobody waits and nothing runs; a sequence that only pauses does not count."""
        self._on_quiet = callback
        self._tell_if_quiet()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as no sequence is open; what was admitted may still wait or run."""
        self._on_over = callback
        self._tell_if_over()

    def on_done(self, instance: Instance, batch: Batch) -> None:
        """Take a finished batch back: the instance gets its next one before the callers hear of this one."""
        runner = next(runner for runner in self._runners if runner.instance is instance)
        for sequence in runner.take_back():
            self._rest(sequence)
        runner.run_next()
        self._hooks.settle_batch(batch)
        self._tell_if_quiet()

    def _checked(self, pending: Pending) -> SequencePosition:
        model, position = self._model, pending.request.sequence
        if pending.rows > 1:
            raise InvalidInput(
                f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence "
                "batcher"
            )
        if position is None or position.id in (0, ""):
            raise InvalidInput(
                f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
            )
        if self._policy.id_dtype is not None:
            check_id(model, position.id, self._policy.id_dtype)
        if not position.is_start and position.id not in self._open:
            raise InvalidInput(
                f"inference request for sequence {str(position.id)[:100]} to model '{model}' must specify the START "
                "flag on the first request of the sequence"
            )
        if pending.due <= self._clock.now():
            raise came_too_late(model)
        if self._max_queue_size and len(self._of) >= self._max_queue_size:
            raise Overloaded(
                f"model '{model}': Exceeds maximum queue size of {self._max_queue_size} requests. "
                "Send fewer at once, or end sequences that need no more answers."
            )
        return position

    def _start(self, position: SequencePosition) -> Sequence:
        sequence = self._open[position.id] = Sequence(position.id)
        if self._free:
            self._place(sequence, self._next_place())
        else:
            self._backlog[sequence] = None
        return sequence

    def _next_place(self) -> Place:
        """Take the lowest free slot. There may be more slots than memory, so the next one is made when it is needed."""
        place = heappop(self._free)
        runner = self._runners[place.instance]
        if place.slot == runner.slots_made and place.slot + 1 < self._policy.places:
            runner.slots_made += 1
            heappush(self._free, Place(runner.slots_made, place.instance))
        return place

    def _place(self, sequence: Sequence, place: Place) -> None:
        sequence.place = place
        self._runners[place.instance].sequences[place.slot] = sequence

    def _rest(self, sequence: Sequence) -> None:
        """Nothing of this sequence runs: free its place if it is over, else begin to count its idleness."""
        if sequence.waiting or sequence.is_running:
            return
        if not sequence.is_open:
            self._free_place(sequence)
        elif sequence.idle_timer is None:
            sequence.idle_timer = self._clock.call_later(self._policy.max_idle_seconds, self._close, sequence)

    def _close(self, sequence: Sequence) -> None:
        """End a sequence whose client did not end it."""
        sequence.stay_awake()
        sequence.is_open = False
        self._untrack(sequence)
        self._rest(sequence)

    def _untrack(self, sequence: Sequence) -> None:
        """Its id may start again."""
        if self._open.get(sequence.id) is sequence:
            del self._open[sequence.id]
            self._clock.call_soon(self._tell_if_over)

    def _free_place(self, sequence: Sequence) -> None:
        """Hand the place of a sequence that is over to the next one in line."""
        self._backlog.pop(sequence, None)
        place, sequence.place = sequence.place, None
        if place is None:
            return
        del self._runners[place.instance].sequences[place.slot]
        if not self._backlog:
            heappush(self._free, place)
            return
        successor, _ = self._backlog.popitem(last=False)
        self._place(successor, place)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        for runner in self._runners:
            runner.run_next()

    def _forget(self, pending: Pending) -> None:
        """It waits no longer."""
        del self._of[pending]
        if pending.timer is not None:
            pending.timer.cancel()

    def _expire(self, pending: Pending) -> None:
        reason = waited_too_long(self._model, self._clock.now() - pending.queued_at)
        self._leave(pending, reason, DeadlineExceeded)

    def _leave(self, pending: Pending, reason: Error, kind: type[Error]) -> bool:
        """Let a request leave, and with it those of its sequence that came after it."""
        sequence = self._of.get(pending)
        if sequence is None:
            return False
        name = str(sequence.id)[:100]
        broken = kind(f"sequence {name} ended early, because a request before this one left: {reason}")
        leaving = sequence.break_at(pending)
        if not sequence.is_open:
            self._untrack(sequence)
        self._rest(sequence)
        for one in leaving:
            self._forget(one)
        for one in leaving:
            why = reason if one is pending else broken
            self._hooks.on_leave(one, why)
            one.settle(why)
        self._clock.call_soon(self._tell_if_quiet)
        return True

    def _tell_if_quiet(self) -> None:
        if self._on_quiet is None or self._of or any(runner.batch for runner in self._runners):
            return
        callback, self._on_quiet = self._on_quiet, None
        for runner in self._runners:
            runner.leave()
        callback()

    def _tell_if_over(self) -> None:
        if self._on_over is not None and not self._open:
            callback, self._on_over = self._on_over, None
            callback()
