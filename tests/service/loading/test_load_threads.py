"""Loads wait for a free thread, and reading runs at a low priority that nothing else inherits."""

import asyncio
import os
import threading

import pytest

from service.loading.load_threads import NICENESS, LoadThreads, at_low_priority


async def test_no_more_loads_run_at_once_than_there_are_threads() -> None:
    threads = LoadThreads(2)
    both, end = threading.Barrier(3), threading.Event()

    def load(number: int) -> int:
        if number < 2:
            both.wait(30)
        assert end.wait(30)
        return number

    loads = [asyncio.create_task(threads.run(load, number)) for number in range(3)]
    await asyncio.to_thread(both.wait, 30)
    assert threads._pool._work_queue.qsize() == 1
    end.set()
    assert await asyncio.gather(*loads) == [0, 1, 2]
    threads.close()


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_reading_has_a_low_priority_and_the_thread_that_asks_keeps_its_own() -> None:
    before = priority()
    assert at_low_priority(priority) == NICENESS
    assert priority() == before


def test_what_goes_wrong_at_a_low_priority_is_heard() -> None:
    with pytest.raises(ZeroDivisionError):
        at_low_priority(lambda: 1 // 0)
