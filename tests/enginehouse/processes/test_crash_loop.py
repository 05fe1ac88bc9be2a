"""A process that ends each time it starts costs one line of the log and a longer wait, and leaves nothing behind."""

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from enginehouse.processes import worker_process
from tests.enginehouse.python_child import Make, opened_models
from tests.enginehouse.test_process_engine import wait_until

RESTARTS = 50
# Counts its starts. From the second one it ends: now before it is ready, now as soon as it is.
MORTAL = """
with open("{starts}", "a") as file:
    file.write(".")
    count = file.tell()
if count > {limit}:
    time.sleep(600)
if count > 1 and count % 2:
    os._exit(7)

class M(Model):
    def initialize(self, arguments):
        if count > 1:
            threading.Thread(target=self.end).start()
    def end(self):
        time.sleep(0.01)
        os._exit(8)
    def execute(self, requests):
        os._exit(9)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    yield from opened_models(tmp_path)


def opened() -> set[str]:
    """What our descriptors are of; each socket and each block of memory has a name of its own."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(f"{path.readlink()} {path.stat().st_ino}")
    return found


def children() -> set[str]:
    """Processes of ours; those that nobody collected too."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_fifty_restarts_leave_nothing_behind_and_say_one_line_each(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 0.0)
    starts = tmp_path / "starts"
    children_before = children()
    engine = make(MORTAL.format(starts=starts, limit=RESTARTS + 1))
    gc.collect()
    open_before, threads_before = opened(), threads()
    engine.kill()
    while starts.stat().st_size < RESTARTS + 2:
        size = starts.stat().st_size
        wait_until(lambda: starts.stat().st_size > size)  # noqa: B023 - waits for it here
    gc.collect()
    # The last one is in its start: it has no conversation yet.
    wait_until(lambda: threads() <= threads_before)
    wait_until(lambda: len(opened() - open_before) <= 1)
    assert len(children() - children_before) == 1
    records = [record for record in caplog.records if record.name == worker_process.__name__]
    lines = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    assert len(lines) == RESTARTS + 1
    assert sum("SIGKILL" in line for line in lines) == 1
    assert (
        sum("could not be started again: the process of model 'm' ended with status 7" in line for line in lines) > 10
    )
    assert sum(line == "the process of model 'm' ended with status 8." for line in lines) > 10
    assert engine.absence


def test_the_wait_doubles_with_each_start_that_fails_up_to_the_longest(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(worker_process, "LONGEST_DELAY_SECONDS", 0.05)
    source = f"if os.path.exists('{tmp_path}/die'): os._exit(7)\nclass M:\n    def execute(self, requests): pass\n"
    engine = make(source)
    delays: list[float] = []
    engine.watch(lambda: delays.append(round(engine._worker._delay_seconds, 3)))
    (tmp_path / "die").touch()
    engine.kill()
    wait_until(lambda: len(delays) > 4)
    assert delays[:5] == [0.02, 0.04, 0.05, 0.05, 0.05]


def test_what_was_closed_between_two_starts_is_not_called_a_failure(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 0.0)
    engine = make(MORTAL.format(starts=tmp_path / "starts", limit=1))
    engine.kill()
    wait_until(lambda: (tmp_path / "starts").stat().st_size > 1)
    engine.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "the process of model 'm' was ended by signal 9 (SIGKILL)."
    ]
