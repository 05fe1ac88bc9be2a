"""How long the client of a stream may leave a response unread."""

import asyncio

# A client that reads nothing for so long is not slow; it keeps a place and memory that others need.
WRITE_STALL_SECONDS = 30.0

# Inside a message no progress can be seen, so a large one may take longer: as long as a poor line needs for it.
MIN_BYTES_PER_SECOND = 1 << 16


class WritePatience:
    """Cancels the task of a stream whose write takes too long, by one timer that looks now and then.

    Attributes:
        is_over: it did.
        stall_seconds: that a write may take, if it is not large.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.stall_seconds = WRITE_STALL_SECONDS
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, task: asyncio.Task[object]) -> None:
        self._look(task)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, size: int) -> None:
        """A message of so many bytes is about to be written."""
        self._due = self._loop.time() + max(self.stall_seconds, size / MIN_BYTES_PER_SECOND)

    def end(self) -> None:
        """It is written."""
        self._due = None

    def _look(self, task: asyncio.Task[object]) -> None:
        now = self._loop.time()
        if self._due is not None and now >= self._due:
            self.is_over = True
            task.cancel()
            return
        self._timer = self._loop.call_at(self._due or now + self.stall_seconds, self._look, task)
