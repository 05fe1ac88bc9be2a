"""One engine copy with its thread: joins a batch, runs it, slices the outputs. It neither decides nor settles."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from traceback import format_exception_only

from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed, Error
from service.clock import Clock
from service.queue import Pending
from service.request import WireTensor
from service.rows import Layout, join, split

# Between the two models that were measured (7 and 400 microseconds a batch): below it, handing a batch to a thread
# costs more than running it on the thread that owns the queue.
INLINE_BELOW_SECONDS = 0.0001


@dataclass(slots=True)
class Batch:
    """Requests that run together, and what became of them.

    Attributes:
        answers: the outputs of each request, or the error that all of them share.
        join_seconds, infer_seconds, split_seconds: how long each part took.
    """

    pendings: list[Pending]
    rows: int
    started_at: float
    answers: list[tuple[WireTensor, ...]] | Error | None = None
    join_seconds: float = 0.0
    infer_seconds: float = 0.0
    split_seconds: float = 0.0


class Instance:
    """Runs one batch at a time.

    Args:
        name: for the thread, so that a stack dump reads well.
        on_done: called on the thread that owns the queue, once per batch.
    """

    def __init__(
        self, name: str, engine: Engine, layout: Layout, clock: Clock, on_done: Callable[["Instance", Batch], None]
    ) -> None:
        self._engine = engine
        self._layout = layout
        self._clock = clock
        self._on_done = on_done
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._is_fast = False
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def start(self, batch: Batch) -> None:
        """Run a batch; the caller hears of its end through `on_done`, at the earliest in the next loop iteration."""
        if self._is_fast:
            self._execute(batch)
            self._clock.call_soon(self._on_done, self, batch)
        else:
            self._batches.put(batch)

    def close(self) -> None:
        """Stop the thread after what it is running, then close the engine. Blocks until both are done."""
        self._batches.put(None)
        self._thread.join()
        self._engine.close()

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._execute(batch)
            self._clock.call_soon_threadsafe(self._on_done, self, batch)

    def _execute(self, batch: Batch) -> None:
        try:
            batch.answers = self._compute(batch)
        except Error as problem:
            batch.answers = problem
        except BaseException as problem:
            # An engine may raise anything, and a thread that dies would leave its requests unanswered for ever.
            said = "".join(format_exception_only(problem)).strip()
            batch.answers = EngineFailed(f"the engine failed: {said}")
        # A batch that failed says nothing about how long the next one takes.
        seconds = batch.join_seconds + batch.infer_seconds + batch.split_seconds
        self._is_fast = isinstance(batch.answers, list) and seconds < INLINE_BELOW_SECONDS

    def _compute(self, batch: Batch) -> list[tuple[WireTensor, ...]]:
        requests = [pending.request for pending in batch.pendings]
        start = time.monotonic()
        feeds = join(requests, self._layout)
        joined = time.monotonic()
        batch.join_seconds = joined - start
        outputs = self._engine.run(feeds)
        computed = time.monotonic()
        batch.infer_seconds = computed - joined
        answers = split(outputs, requests, [pending.rows for pending in batch.pendings], self._layout)
        batch.split_seconds = time.monotonic() - computed
        return answers
