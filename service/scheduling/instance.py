"""One engine copy with its thread: runs batches, one at a time. It neither decides nor settles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from traceback import format_exception_only
from typing import Protocol

from enginehouse.errors import EngineCrashed, EngineFailed, Error, NotReady
from service.clock import Clock
from service.scheduling.computation import Answer, Computation, Execution
from service.scheduling.queue import Pending

# Between the two models that were measured (7 and 400 microseconds a batch): below it, handing a batch to a thread
# costs more than running it on the thread that owns the queue.
INLINE_BELOW_SECONDS = 0.0001


@dataclass(slots=True)
class Batch:
    """Requests that run together, and what became of each.

    Attributes:
        ended_at: when the instance was through with it, which may be before the loop hears of it.
        followed_by: what the instance took from an offer then, and began at that moment.
    """

    pendings: list[Pending]
    rows: int
    started_at: float
    answers: list[Answer] = field(default_factory=list)
    ended_at: float = 0.0
    followed_by: "Batch | None" = None

    @property
    def executions(self) -> list[Execution]:
        """Each execution once, however many requests it answered."""
        found = {id(answer.execution): answer.execution for answer in self.answers}
        return [execution for execution in found.values() if execution is not None]

    def end(self, ended_at: float, followed_by: "Batch | None") -> None:
        """The next one begins with the end, without those who left since it was offered or whose time is over."""
        self.ended_at, self.followed_by = ended_at, followed_by
        if followed_by is not None:
            followed_by.started_at = ended_at
            followed_by.pendings = [
                pending for pending in followed_by.pendings if not pending.is_settled and pending.due > ended_at
            ]
            followed_by.rows = sum(pending.rows for pending in followed_by.pendings)


class Offered(Protocol):
    """Where an instance that is free may find a batch, as in an `Offer`."""

    def take(self) -> Batch | None: ...


class Instance:
    """Runs one batch at a time.

    Args:
        name: for the thread, so that a stack dump reads well.
        on_done: called on the thread that owns the queue, once per batch.

    Attributes:
        is_inline: whether it ran the batch that it was given last at once, and not on its thread.
    """

    def __init__(
        self, name: str, computation: Computation, clock: Clock, on_done: Callable[["Instance", Batch], None]
    ) -> None:
        self._computation = computation
        self._clock = clock
        self._on_done = on_done
        self._batches: SimpleQueue[tuple[Batch, Offered | None] | None] = SimpleQueue()
        self._fast_rows = 0
        self.is_inline = False
        self._close_problem: Exception | None = None
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def start(self, batch: Batch, offered: Offered | None = None) -> None:
        """Run a batch, and what is offered when it has ended, and so on.

        The caller hears of each end through `on_done`, at the earliest in the next loop iteration.
        """
        self.is_inline = batch.rows <= self._fast_rows
        if self.is_inline:
            self._execute(batch)
            batch.ended_at = self._clock.now()
            self._clock.call_soon(self._on_done, self, batch)
        else:
            self._batches.put((batch, offered))

    def close(self, patience_seconds: float) -> bool:
        """Stop the thread after what it is running, then close the engine. Blocks until both are done.

        Returns:
            False if the engine hung for longer than the patience; it is closed when it ends, if it ever does.
        """
        self._batches.put(None)
        self._thread.join(patience_seconds)
        if self._close_problem is not None:
            raise self._close_problem
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (given := self._batches.get()) is not None:
            batch: Batch | None
            batch, offered = given
            # Or the first of many would be held, with all its tensors, for as long as one follows another.
            del given
            while batch is not None:
                batch = self._run(batch, offered)
        try:
            self._computation.close()
        except Exception as problem:
            self._close_problem = problem

    def _run(self, batch: Batch, offered: Offered | None) -> Batch | None:
        """Run a batch that has begun, and say which one begins now."""
        if batch.pendings:
            self._execute(batch)
        following = offered.take() if offered is not None else None
        batch.end(self._clock.now(), following)
        self._clock.call_soon_threadsafe(self._on_done, self, batch)
        return following

    def _execute(self, batch: Batch) -> None:
        execution: Execution | None = None
        try:
            batch.answers = self._computation.compute(batch.pendings)
            execution = batch.answers[0].execution
        except BaseException as problem:
            # An engine may raise anything, and a thread that dies would leave its requests unanswered for ever.
            batch.answers = self._answer_failure(batch.pendings, _our_error(problem))
        if self._computation.may_run_inline and execution is not None and execution.seconds < INLINE_BELOW_SECONDS:
            self._fast_rows = max(self._fast_rows, execution.rows)
        else:
            # A batch that failed says nothing about how long the next one takes.
            self._fast_rows = min(self._fast_rows, batch.rows - 1)

    def _answer_failure(self, pendings: Sequence[Pending], error: Error) -> list[Answer]:
        """One of several may be to blame, and the others must not pay for the company they were put in.

        Unless the process that computed them is gone: whichever it was would end the next one too.
        """
        if len(pendings) == 1 or isinstance(error, EngineCrashed | NotReady):
            return [Answer(error=error)] * len(pendings)
        return [self._run_alone(pending) for pending in pendings]

    def _run_alone(self, pending: Pending) -> Answer:
        if pending.is_settled:
            return Answer(error=EngineFailed("nobody waits for this answer any more."))
        try:
            (answer,) = self._computation.compute([pending])
        except BaseException as problem:
            answer = Answer(error=_our_error(problem))
        return answer


def _our_error(problem: BaseException) -> Error:
    if isinstance(problem, Error):
        # Its frames know the batch, which will know it.
        return problem.with_traceback(None)
    return EngineFailed(f"the engine failed: {''.join(format_exception_only(problem)).strip()}")
