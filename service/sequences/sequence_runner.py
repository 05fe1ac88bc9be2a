"""One instance, with the sequences that live there and take turns on it."""

from collections.abc import Callable
from functools import partial

from service.clock import Clock, Timer
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import Pending
from service.scheduling.rate_limiter import Permit
from service.sequences.sequence_line import Sequence
from service.sequences.sequence_policy import SequencePolicy, choose


class SequenceRunner:
    """Runs one request each of several sequences, one batch at a time. On the thread that owns the queue.

    Attributes:
        sequences: those that have a place here, by slot.
        slots_made: the highest slot that was ever free.
        batch: what runs now.

    Args:
        instance: what runs.
        permit: to run only while there are resources; None where nothing is limited.
        policy: how sequences get their turn.
        clock: of the thread that owns the queue.
        on_take: told of each request that starts.
        on_late: told of each that would have started now, had its deadline not passed; it must leave its sequence.
    """

    def __init__(
        self,
        instance: Instance,
        permit: Permit | None,
        policy: SequencePolicy,
        clock: Clock,
        on_take: Callable[[Pending], None],
        on_late: Callable[[Pending], None],
    ) -> None:
        self.instance = instance
        self.sequences: dict[int, Sequence] = {}
        self.slots_made = 0
        self.batch: Batch | None = None
        self._permit = permit
        self._policy = policy
        self._clock = clock
        self._on_take = on_take
        self._on_late = on_late
        self._members: list[Sequence] = []
        self._is_asking = False
        self._timer: Timer | None = None

    def run_next(self) -> None:
        """Start the next batch, if the instance is idle and somebody waits long enough."""
        self._stop_waiting()
        if self.batch is not None or self._is_asking:
            return
        chosen = self._choose()
        if not chosen:
            return
        if self._permit is None:
            self._run(chosen)
            return
        self._is_asking = True
        if self._permit.ask(partial(self._on_grant, self._permit)):
            # To ask may have let others run first, and their callers may have changed what waits here.
            self._on_grant(self._permit)

    def take_back(self) -> list[Sequence]:
        """The instance is idle again; the answer is whose requests it ran."""
        members, self._members, self.batch = self._members, [], None
        for sequence in members:
            sequence.is_running = False
        if self._permit is not None:
            self._permit.give_back()
        return members

    def leave(self) -> None:
        """Nothing will run here any more."""
        self._stop_waiting()
        if self._permit is not None:
            self._permit.leave()

    def _on_grant(self, permit: Permit) -> None:
        self._is_asking = False
        chosen = self._choose()
        if chosen:
            self._run(chosen)
        else:
            permit.give_back(has_run=False)

    def _choose(self) -> list[Sequence]:
        """Whose requests run now; with nobody, a timer may have been set."""
        self._stop_waiting()
        now = self._clock.now()
        while late := [one.head for one in self.sequences.values() if one.waiting and one.head.due <= now]:
            for pending in late:
                self._on_late(pending)
        ready = [sequence for _, sequence in sorted(self.sequences.items()) if sequence.waiting]
        if not ready:
            return []
        choice = choose([sequence.head for sequence in ready], self._policy, now)
        if choice.wait_seconds > 0:
            self._timer = self._clock.call_later(choice.wait_seconds, self.run_next)
        return [ready[position] for position in choice.positions]

    def _run(self, chosen: list[Sequence]) -> None:
        self._members = chosen
        pendings = [sequence.take() for sequence in chosen]
        for pending in pendings:
            self._on_take(pending)
        self.batch = Batch(pendings, len(pendings), self._clock.now())
        self.instance.start(self.batch)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
