"""An engine in a process of its own gives the same answers, and its end is nobody else's."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineCrashed, EngineFailed, Error, InvalidInput, NotReady, NotSupported
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.process_engine import ProcessEngine, engine_task, let_step_in
from enginehouse.processes import worker_process
from tests.conftest import ROOT, make_identity_model
from tests.service.conftest import make_scale_model

PLATFORM = "onnxruntime_onnx"


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    onnx.save(make_scale_model(3), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[ProcessEngine]:
    engine = ProcessEngine(engine_task("m", path, PLATFORM, 1, CPU_PROVIDER, **options))
    try:
        yield engine
    finally:
        engine.close()


def ones(rows: int = 1) -> dict[str, Any]:
    return {"x": np.ones((rows, 2), np.float32)}


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def end(engine: ProcessEngine) -> None:
    """Kill the child, and wait until that is known."""
    pid, heard = engine.pid, threading.Event()
    assert pid is not None
    engine._worker._on_end = lambda _: heard.set()
    os.kill(pid, signal.SIGKILL)
    assert heard.wait(30)


def run_when_ready(engine: ProcessEngine) -> Any:
    deadline = time.monotonic() + 30
    while not engine._worker.is_ready:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return engine.run(ones())


@pytest.mark.parametrize("name", list(DTYPES))
def test_answers_are_those_of_the_same_engine_in_process(tmp_path: Path, name: str) -> None:
    dtype = DTYPES[name]
    onnx.save(make_identity_model(dtype.onnx_code), tmp_path / "model.onnx")
    engine = OnnxRuntimeEngine(tmp_path / "model.onnx")
    array = np.array([["a", "ü", ""]], object) if name == "BYTES" else np.array([[0, 1, 1]]).astype(dtype.numpy)
    feeds = {engine.inputs[0].name: array}
    with opened(tmp_path / "model.onnx") as isolated:
        assert (isolated.inputs, isolated.outputs) == (engine.inputs, engine.outputs)
        (here,), (there,) = engine.run(feeds).values(), isolated.run(feeds).values()
        assert there.dtype == here.dtype
        assert [item.decode() if isinstance(item, bytes) else item for item in there.ravel().tolist()] == (
            here.ravel().tolist()
        )


def test_an_answer_stays_what_it_was_when_the_next_one_comes(scale: Path) -> None:
    with opened(scale) as engine:
        first = engine.run(ones())
        engine.run({"x": np.zeros((1, 2), np.float32)})
        assert first["y"].tolist() == [[3, 3]]


def test_the_childs_own_words_reach_the_caller(scale: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    with pytest.raises(EngineFailed, match=r"ONNX Runtime cannot open broken\.onnx"):
        ProcessEngine(engine_task("m", tmp_path / "broken.onnx", PLATFORM, 1, CPU_PROVIDER))
    with pytest.raises(NotSupported, match="execution provider Nonesuch"):
        ProcessEngine(engine_task("m", scale, PLATFORM, 1, "Nonesuch"))
    with opened(scale) as engine:
        with pytest.raises(InvalidInput, match="missing tensor 'x'"):
            engine.run({"z": np.zeros(1)})
        with pytest.raises(EngineFailed, match="ONNX Runtime failed"):
            engine.run({"x": np.zeros((1, 2), np.float64)})
        with pytest.raises(InvalidInput, match="complex64"):
            engine.run({"x": np.zeros((1, 2), np.complex64)})
        assert engine.run(ones())["y"].tolist() == [[3, 3]]


def test_a_killed_child_fails_its_run_refuses_while_it_starts_and_comes_back(scale: Path) -> None:
    with opened(scale) as engine:
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(engine.run, ones())
            os.kill(pid, signal.SIGKILL)
            problem = answer.exception(30)
        assert isinstance(problem, EngineCrashed)
        assert str(problem) == "the process of model 'm' was ended by signal 9 (SIGKILL) while it computed."
        with pytest.raises(NotReady, match=r"SIGKILL.*start.*Send the request again"):
            engine.run(ones())
        assert run_when_ready(engine)["y"].tolist() == [[3, 3]]
        assert engine.pid != pid


def test_each_start_waits_twice_as_long_as_the_one_before(scale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(scale) as engine:
        worker = engine._worker
        waits = []
        for _ in range(3):
            end(engine)
            waits.append(worker._starts_at - time.monotonic())
            run_when_ready(engine)
        assert waits[0] <= 0.1 < waits[1] <= 0.2 < waits[2] <= 0.4
        monkeypatch.setattr(worker_process, "LONG_LIFE_SECONDS", 0.0)
        end(engine)
        assert worker._starts_at - time.monotonic() <= 0.1, "one that served for long begins anew"


def test_a_refusal_names_when_the_next_start_is(scale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 20.0)
    with opened(scale) as engine:
        end(engine)
        with pytest.raises(NotReady, match=r"it starts again in (20\.0|19\.\d) s"):
            engine.run(ones())
        engine._worker._starts_at = time.monotonic() + 0.02
        with pytest.raises(NotReady, match="it is starting again"):
            engine.run(ones())


def test_engines_of_one_model_step_in_for_each_other(scale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 600.0)
    with opened(scale) as one, opened(scale) as other:
        let_step_in([one, other])
        end(one)
        assert one.run(ones())["y"].tolist() == [[3, 3]]
        end(other)
        with pytest.raises(NotReady):
            one.run(ones())


def test_closing_ends_the_child_and_twice_is_once(scale: Path) -> None:
    with opened(scale) as engine:
        pid = engine.pid
        engine.close()
        assert pid is not None
        assert is_gone(pid)
        engine.close()
        with pytest.raises(NotReady, match="being unloaded"):
            engine.run(ones())


def test_a_child_that_hangs_is_killed_and_its_run_is_told(scale: Path) -> None:
    with opened(scale) as engine, ThreadPoolExecutor(1) as pool:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        answer = pool.submit(engine.run, ones())
        engine.kill()
        assert isinstance(answer.exception(30), EngineCrashed)


def test_closing_while_the_next_start_is_awaited_does_not_wait_for_it(
    scale: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 600.0)
    with opened(scale) as engine:
        end(engine)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


PARENT = """
import sys, time
from pathlib import Path
from enginehouse.process_engine import ProcessEngine, engine_task
from threading import Thread
found = []
# Opened on a thread that ends at once: the child lives as long as the process, not as long as that thread.
task = engine_task("m", Path(sys.argv[1]), "onnxruntime_onnx", 1, "CPUExecutionProvider")
opener = Thread(target=lambda: found.append(ProcessEngine(task)))
opener.start(); opener.join()
import numpy as np
found[0].run({"x": np.ones((1, 2), np.float32)})
print(found[0].pid, flush=True)
time.sleep(600)
"""


def test_the_child_ends_with_its_parent_however_that_ends(scale: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(scale)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: is_gone(pid))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_child_has_none_of_our_files_and_sockets(scale: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with opened(scale) as engine:
        mine = os.fstat(writing).st_ino
        theirs = [path.stat().st_ino for path in Path(f"/proc/{engine.pid}/fd").iterdir() if path.exists()]
        assert mine not in theirs
    os.close(reading)
    os.close(writing)


def test_the_weights_are_in_the_child_only(scale: Path) -> None:
    program = """
import sys
from pathlib import Path
from enginehouse.process_engine import ProcessEngine, engine_task
engine = ProcessEngine(engine_task("m", Path(sys.argv[1]), "onnxruntime_onnx", 1, "CPUExecutionProvider"))
print("onnxruntime" in sys.modules)
engine.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(scale)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_every_run_is_answered_once_while_the_child_is_killed_again_and_again(scale: Path) -> None:
    with opened(scale) as engine:
        answers: list[Any] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(engine.run(ones())["y"].tolist())
                except Error as problem:
                    answers.append(type(problem))

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        for _ in range(3):
            wait_until(lambda: engine.pid is not None)
            end(engine)
        run_when_ready(engine)
        stop.set()
        for asker in askers:
            asker.join(30)
            assert not asker.is_alive()
    assert {str(answer) for answer in answers} <= {"[[3.0, 3.0]]", str(EngineCrashed), str(NotReady)}
    assert sum(answer is EngineCrashed for answer in answers) <= 3 * len(askers)
