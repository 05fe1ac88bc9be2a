"""The fake clock keeps the promises of a loop, and the real one is the loop."""

import asyncio

from service.clock import FakeClock, LoopClock


def test_callbacks_run_in_order_and_only_when_asked() -> None:
    clock, seen = FakeClock(), list[str]()
    clock.call_soon(lambda: clock.call_soon_threadsafe(seen.append, "then"))
    clock.call_soon(seen.append, "first")
    assert seen == []
    clock.run_ready()
    assert seen == ["first", "then"]


def test_timers_run_at_their_own_moment_unless_cancelled() -> None:
    clock, seen = FakeClock(), list[tuple[str, float]]()
    clock.call_later(2, lambda: mark("late"))

    def mark(name: str) -> None:
        seen.append((name, clock.now()))
        if name == "early":
            clock.call_later(0.5, mark, "nested")

    clock.call_later(1, mark, "early")

    clock.call_later(1, seen.append, ("never", 0.0)).cancel()
    clock.advance(1.75)
    assert seen == [("early", 1.0), ("nested", 1.5)]
    clock.advance(10)
    assert seen[-1] == ("late", 2.0)
    assert clock.now() == 11.75


async def test_the_loop_clock_runs_on_the_loop_and_tells_monotonic_time() -> None:
    clock = LoopClock(asyncio.get_running_loop())
    done = asyncio.Event()
    before = clock.now()
    clock.call_later(60, done.clear).cancel()
    clock.call_later(0, clock.call_soon, done.set)
    await asyncio.wait_for(done.wait(), 30)
    assert clock.now() >= before
