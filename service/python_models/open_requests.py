"""Waits for requests of a decoupled model whose last response comes after the batch that they ran in."""

from collections.abc import Callable, Sequence

from enginehouse.errors import Error, Overloaded
from service.clock import Clock
from service.python_models.request_computation import OPEN
from service.scheduling.computation import Answer
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import Pending
from service.scheduling.scheduler import Hooks, MakeScheduler

# Requests that a model may keep open at once; each may hold memory in its process.
MAX_OPEN_REQUESTS = 1024


class OpenRequests:
    """Another scheduler, which decides, and the requests that it is done with and that still have an answer to come.

    Args:
        make_scheduler: makes the one that decides.
        limit: requests that may be open; beyond it new ones are refused.
    """

    def __init__(
        self, make_scheduler: MakeScheduler, clock: Clock, hooks: Hooks, limit: int = MAX_OPEN_REQUESTS
    ) -> None:
        self._inner = make_scheduler(clock, Hooks(self._settle, hooks.on_leave))
        self._hooks = hooks
        self._limit = limit
        self._open: dict[Pending, float] = {}
        self._early: dict[Pending, Answer] = {}
        self._on_quiet: Callable[[], None] | None = None

    @property
    def depth(self) -> int:
        return self._inner.depth

    @property
    def time_to_spare(self) -> float:
        return self._inner.time_to_spare

    def add_instances(self, instances: Sequence[Instance]) -> None:
        self._inner.add_instances(instances)

    def admit(self, pending: Pending) -> None:
        """Let a request wait its turn; raises `Overloaded` while too many are open."""
        if len(self._open) >= self._limit:
            raise Overloaded(
                f"model '{pending.request.model_name}': {self._limit} requests still have responses to come. "
                "Send fewer at once."
            )
        self._inner.admit(pending)

    def running(self) -> list[Pending]:
        """Requests that an instance has, and those whose last response is still to come."""
        return [*self._inner.running(), *self._open]

    def clear(self, reason: Error) -> None:
        self._inner.clear(reason)

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nobody waits, nothing runs and nothing is open."""
        self._inner.when_quiet(lambda: self._wait_for_open(callback))

    def on_done(self, instance: Instance, batch: Batch) -> None:
        self._inner.on_done(instance, batch)

    def finish(self, pending: Pending, answer: Answer) -> None:
        """Take the last answer of a request that was left open, perhaps before its batch is back."""
        started_at = self._open.pop(pending, None)
        if started_at is None:
            self._early[pending] = answer
            return
        self._hooks.settle_batch(Batch([pending], pending.rows, started_at, [answer]))
        self._tell_if_quiet()

    def _settle(self, batch: Batch) -> None:
        settled: list[tuple[Pending, Answer]] = []
        for pending, found in zip(batch.pendings, batch.answers, strict=True):
            answer = self._early.pop(pending, OPEN) if found is OPEN else found
            if answer is OPEN:
                self._open[pending] = batch.started_at
            else:
                settled.append((pending, answer))
        if settled:
            pendings, answers = [pending for pending, _ in settled], [answer for _, answer in settled]
            self._hooks.settle_batch(Batch(pendings, batch.rows, batch.started_at, answers))

    def _wait_for_open(self, callback: Callable[[], None]) -> None:
        self._on_quiet = callback
        self._tell_if_quiet()

    def _tell_if_quiet(self) -> None:
        if self._on_quiet is not None and not self._open:
            callback, self._on_quiet = self._on_quiet, None
            callback()
