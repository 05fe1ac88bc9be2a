"""Threads that loading may use: few, so that models that serve keep the cores."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Half the share of a thread that serves, roughly a tenth: work that nobody waits for in milliseconds.
NICENESS = 10


class LoadThreads:
    """Runs what blocks beside the loop, so many at a time."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="load")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Wait for a thread to be free and for the function to end."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Let idle threads end; one that hangs is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def at_low_priority(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what only reads, at a low priority, and wait for it.

    It needs a thread of its own: without privileges a thread cannot go back to a normal priority, and an engine
    that it opened would hand the low one down to the threads that it computes with for as long as it serves.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            result.set_result(function(*args, **kwargs))
        except BaseException as problem:
            result.set_exception(problem)

    thread = threading.Thread(target=run, name="load-low-priority")
    thread.start()
    thread.join()
    return result.result()
