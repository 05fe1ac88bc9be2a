"""Servers that are given one directory share one process for each engine, and none of them depends on another."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.errors import EngineCrashed, EngineFailed, InvalidInput, NotReady
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from enginehouse.process_engine import ProcessEngine, engine_task
from enginehouse.processes import meeting_place, worker_process
from enginehouse.processes.meeting_place import PASSWORD, MeetingPlace, name_of_engine
from enginehouse.processes.worker_process import Task
from tests.conftest import ROOT
from tests.contract.test_isolation import make_slow_model
from tests.service.conftest import make_scale_model

PLATFORM = "onnxruntime_onnx"


@pytest.fixture(autouse=True)
def linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_place, "LINGER_SECONDS", 0.5)


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    onnx.save(make_scale_model(3), tmp_path / "model" / "model.onnx")
    return tmp_path / "model" / "model.onnx"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def task_of(path: Path, threads: int = 1) -> Task:
    return engine_task("m", path, PLATFORM, threads, CPU_PROVIDER)


@contextmanager
def opened(path: Path, directory: Path, instance: int = 0, threads: int = 1) -> Iterator[ProcessEngine]:
    engine = ProcessEngine(task_of(path, threads), partial(MeetingPlace(directory).meet, instance=instance))
    try:
        yield engine
    finally:
        engine.close()


def pid_of(engine: ProcessEngine) -> int:
    assert engine.pid is not None
    return engine.pid


def ones() -> dict[str, Any]:
    return {"x": np.ones((1, 2), np.float32)}


def answers(engine: ProcessEngine) -> bool:
    return bool((engine.run(ones())["y"] == 3).all())


def run_when_ready(engine: ProcessEngine) -> bool:
    wait_until(lambda: engine._worker.is_ready)
    return answers(engine)


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "lock")


def socket_in(directory: Path) -> str:
    (path,) = directory.glob("*.sock")
    return f"/proc/self/fd/{os.open(directory, os.O_RDONLY)}/{path.name}"


def test_two_that_open_the_same_share_one_process(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as one, opened(scale, directory) as other:
        assert one.pid == other.pid
        assert answers(one)
        assert answers(other)
        assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
        assert directory.stat().st_mode & 0o777 == 0o700


def test_what_differs_in_anything_that_an_engine_is_opened_from_has_its_own(scale: Path, directory: Path) -> None:
    with (
        opened(scale, directory) as one,
        opened(scale, directory, instance=1) as second,
        opened(scale, directory, threads=2) as wider,
    ):
        assert len({one.pid, second.pid, wider.pid}) == 3
        name = name_of_engine(task_of(scale), 0)
        weights = scale.with_name("weights.bin")
        weights.write_bytes(b"0")
        with_weights = name_of_engine(task_of(scale), 0)
        os.utime(weights, ns=(1, 1))
        touched = name_of_engine(task_of(scale), 0)
        onnx.save(make_scale_model(5), scale)
        assert len({name, with_weights, touched, name_of_engine(task_of(scale), 0)}) == 4
        with opened(scale, directory) as new:
            assert new.run(ones())["y"].tolist() == [[5, 5]]
            assert answers(one), "who opened the old file goes on with it"


def test_many_that_start_at_one_moment_start_one_process(
    scale: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 6
    barrier = threading.Barrier(count)
    starts: list[str] = []
    second = threading.Event()
    start_process = MeetingPlace._start

    def start_late(place: MeetingPlace, name: str, task: Task) -> None:
        starts.append(name)
        if len(starts) > 1:
            second.set()
        # Time for another to come to the same conclusion, if it could.
        second.wait(0.3)
        start_process(place, name, task)

    monkeypatch.setattr(MeetingPlace, "_start", start_late)

    def start(_: int) -> ProcessEngine:
        barrier.wait()
        return ProcessEngine(task_of(scale), partial(MeetingPlace(directory).meet, instance=0))

    with ThreadPoolExecutor(count) as pool:
        engines = list(pool.map(start, range(count)))
    assert len(starts) == len({engine.pid for engine in engines}) == 1
    assert all(answers(engine) for engine in engines)
    for engine in engines:
        engine.close()


def test_one_that_leaves_takes_nothing_from_the_others(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as one, opened(scale, directory) as other:
        pid = one.pid
        one.close()
        assert answers(other)
        left = threading.Event()
        other._worker._on_end = lambda _: left.set()
        other.kill()
        assert left.wait(30)
        assert run_when_ready(other), "to kill it means no more than to leave, and to come back"
        assert other.pid == pid
        with pytest.raises(NotReady, match="being unloaded"):
            one.run(ones())


def test_the_process_ends_with_nothing_left_a_while_after_the_last_has_gone(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as one, opened(scale, directory) as other:
        pid = pid_of(one)
        assert len(left_in(directory)) == 2
        one.close()
        assert answers(other)
    assert not is_gone(pid), "a server that is started again finds it"
    wait_until(lambda: is_gone(pid))
    assert left_in(directory) == []


def test_it_is_not_ended_by_what_asks_a_whole_group_of_processes_to_end(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as engine:
        pid = pid_of(engine)
        assert os.getsid(pid) == pid, "the terminal of the server is not its own"
        for asked_to_end in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, asked_to_end)
        assert answers(engine)
        assert engine.pid == pid


def test_who_comes_back_in_time_finds_the_process(
    scale: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting_place, "LINGER_SECONDS", 20.0)
    with opened(scale, directory) as engine:
        pid = pid_of(engine)
    with opened(scale, directory) as engine:
        assert engine.pid == pid
        os.kill(pid, signal.SIGKILL)


SERVER = """
import sys, time
from functools import partial
from pathlib import Path
import numpy as np
from enginehouse.processes import meeting_place
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from enginehouse.process_engine import ProcessEngine, engine_task
meeting_place.LINGER_SECONDS = 0.5
place = meeting_place.MeetingPlace(Path(sys.argv[2]))
task = engine_task("m", Path(sys.argv[1]), "onnxruntime_onnx", 1, CPU_PROVIDER)
engine = ProcessEngine(task, partial(place.meet, instance=0))
print(engine.pid, flush=True)
while True:
    engine.run({"x": np.ones((300_000, 2), np.float32)})
"""


@contextmanager
def server(scale: Path, directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that asks the engine over and over, and the engine's own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(scale), str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory_files(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:enginehouse")


def test_the_process_outlives_the_server_that_started_it_and_keeps_none_of_its_memory(
    scale: Path, directory: Path
) -> None:
    with server(scale, directory) as (starter, pid), opened(scale, directory) as engine:
        assert engine.pid == pid
        assert answers(engine)
        wait_until(lambda: memory_files(pid) > 2)
        starter.kill()
        starter.wait()
        assert answers(engine)
        # What is left is this side's: a block for what it asks, and one for the answers.
        wait_until(lambda: memory_files(pid) == 2)
        left = descriptors(pid)
        with server(scale, directory) as (other, same):
            assert same == pid
            wait_until(lambda: memory_files(pid) > 2)
            other.kill()
        wait_until(lambda: memory_files(pid) == 2 and descriptors(pid) == left)
    wait_until(lambda: is_gone(pid))
    assert left_in(directory) == []


def test_a_killed_process_fails_what_it_computed_and_all_find_one_new(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "slow").mkdir()
    path = tmp_path / "slow" / "model.onnx"
    onnx.save(make_slow_model(), path)
    feeds = {"x": np.ones((4000, 64), np.float32)}
    with opened(path, directory) as one, opened(path, directory) as other, ThreadPoolExecutor(2) as pool:
        pid = pid_of(one)
        runs = [pool.submit(engine.run, feeds) for engine in (one, other)]
        wait_until(lambda: one._computing.locked() and other._computing.locked())
        os.kill(pid, signal.SIGKILL)
        for run in runs:
            problem = run.exception(30)
            assert type(problem) is EngineCrashed
            assert str(problem) == "the process of model 'm' that several servers share ended while it computed."
        wait_until(lambda: one._worker.is_ready and other._worker.is_ready)
        assert one.pid == other.pid != pid
        np.testing.assert_allclose(one.run(feeds)["y"], feeds["x"])
        new = pid_of(one)
    wait_until(lambda: is_gone(new))
    assert left_in(directory) == []


def test_while_it_is_started_again_runs_are_refused_with_the_time(
    scale: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 20.0)
    with opened(scale, directory) as engine:
        os.kill(pid_of(engine), signal.SIGKILL)
        wait_until(lambda: not engine._worker.is_ready)
        with pytest.raises(NotReady, match=r"several servers share ended; it starts again in (20\.0|19\.\d) s"):
            engine.run(ones())
        begun = time.monotonic()
    assert time.monotonic() - begun < 5, "closing does not wait for the start"


def test_what_a_killed_process_left_is_taken_away(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as engine:
        pid = pid_of(engine)
        engine._worker._is_closing = True
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid))
    assert any(name.endswith(".sock") for name in left_in(directory))
    place = MeetingPlace(directory)
    assert not any(name.endswith(".sock") for name in left_in(directory))
    assert not place.is_running(task_of(scale), 0)
    with opened(scale, directory) as engine:
        assert answers(engine)
        assert place.is_running(task_of(scale), 0)
        assert not place.is_running(task_of(scale), 1)


def test_an_engine_that_cannot_be_opened_says_why_to_everybody_and_leaves_nothing(
    tmp_path: Path, directory: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.onnx").write_bytes(b"nonsense")
    place = MeetingPlace(directory)

    def start(_: int) -> None:
        with pytest.raises(EngineFailed, match=r"ONNX Runtime cannot open broken\.onnx"):
            ProcessEngine(task_of(tmp_path / "model" / "broken.onnx"), partial(place.meet, instance=0))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(start, range(3)))
    assert left_in(directory) == []
    with pytest.raises(EngineFailed, match=r"nonesuch\.onnx' cannot be read: No such file"):
        ProcessEngine(task_of(tmp_path / "model" / "nonesuch.onnx"), partial(place.meet, instance=0))


@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HTTP/1.1\r\n\r\n", PASSWORD[:-3], b"\xff" * 1000, PASSWORD + b"\xff" * 1000, PASSWORD],
    ids=["silence", "http", "half a password", "bytes", "bytes after the password", "silence after the password"],
)
def test_a_stranger_disturbs_nobody(scale: Path, directory: Path, said: bytes) -> None:
    with opened(scale, directory) as engine, socket.socket(socket.AF_UNIX) as stranger:
        pid = pid_of(engine)
        stranger.connect(socket_in(directory))
        stranger.sendall(said)
        assert answers(engine)
        with opened(scale, directory) as other:
            assert answers(other)
            assert other.pid == pid
    wait_until(lambda: is_gone(pid))
    assert left_in(directory) == []


def test_strangers_who_stay_do_not_keep_servers_out(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as engine:
        address = socket_in(directory)
        strangers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for stranger in strangers:
            stranger.connect(address)
        with opened(scale, directory) as other:
            assert answers(other)
        pid = pid_of(engine)
        threads = Path(f"/proc/{pid}/task")
        most = len(list(threads.iterdir()))
        # Those who say nothing are sent away.
        for stranger in strangers:
            stranger.settimeout(30)
            assert stranger.recv(1) == b""
            stranger.close()
        wait_until(lambda: len(list(threads.iterdir())) <= most - 19)
        assert answers(engine)


def test_nobody_is_kept_waiting_by_one_who_does_not_read(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as engine, socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(socket_in(directory))
        frame = json.dumps([{"names": ["x" * 50_000]}, None, [["FP32", [0, 2], 0, 0]], False, [], []]).encode()
        deaf.sendall(PASSWORD)
        deaf.settimeout(1)
        with pytest.raises(TimeoutError):
            deaf.sendall((len(frame).to_bytes(4, "little") + frame) * 1000)
        assert answers(engine)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o770])
def test_a_directory_that_others_have_rights_to_is_refused(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(
        InvalidInput, match=rf"with mode {mode:04o}, and must belong to user \d+ with mode 0700.*chmod 700"
    ):
        MeetingPlace(directory)
    directory.chmod(0o700)
    MeetingPlace(directory)


def test_what_is_no_directory_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="Not a directory"):
        MeetingPlace(tmp_path / "file")
    with pytest.raises(InvalidInput, match="No such file"):
        MeetingPlace(tmp_path / "nonesuch" / "engines")


def test_a_directory_that_is_removed_leaves_those_who_met_to_themselves(scale: Path, directory: Path) -> None:
    with opened(scale, directory) as engine:
        pid = pid_of(engine)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        assert answers(engine)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "was removed, start the server again" in str(engine._worker.absence))
        with pytest.raises(NotReady, match=r"cannot meet in .*engines': .*No such file.*Send the request again"):
            engine.run(ones())
    with opened(scale, directory) as engine:
        pid = pid_of(engine)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    wait_until(lambda: is_gone(pid))


def test_a_long_path_is_no_hindrance(scale: Path, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    with opened(scale, long) as engine:
        assert answers(engine)
