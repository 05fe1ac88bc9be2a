"""Time and the event loop, as far as scheduling needs them; injected, so that a test can be the clock."""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Runs callbacks on the one thread that owns the queues, and tells the time in seconds."""

    def now(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...
    def call_later(self, delay_seconds: float, callback: Callable[..., object], *args: Any) -> Timer: ...
    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...


class LoopClock:
    """The clock of a running event loop. Its time is not the loop's own, which may be rounded to milliseconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.call_soon_threadsafe = loop.call_soon_threadsafe
        self.now = time.monotonic


class FakeClock:
    """Time that stands still until a test moves it; callbacks run only when the test says so."""

    def __init__(self) -> None:
        self.time = 0.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._count = 0

    def now(self) -> float:
        return self.time

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._ready.append((callback, args))

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        self._ready.append((callback, args))

    def call_later(self, delay_seconds: float, callback: Callable[..., object], *args: Any) -> "_FakeTimer":
        timer = _FakeTimer(callback, args)
        self._count += 1
        heapq.heappush(self._timers, (self.time + delay_seconds, self._count, timer))
        return timer

    def run_ready(self) -> None:
        """Run what is due now, and what that makes due."""
        while self._ready:
            callback, args = self._ready.popleft()
            callback(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass, running each timer at its own moment."""
        self.run_ready()
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self.time = max(self.time, due)
            timer.fire()
            self.run_ready()
        self.time = end


class _FakeTimer:
    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback(*self._args)
