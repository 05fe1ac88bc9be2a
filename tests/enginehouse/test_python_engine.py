"""A Python model in its process: every request has exactly one last reply, whatever the model does."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enginehouse.errors import EngineCrashed, EngineFailed, InvalidInput, NotReady, NotSupported
from enginehouse.processes import worker_process
from enginehouse.processes.shared_tensors import IncomingTensors
from enginehouse.python_engine import Job, ModelCall, PythonEngine, Reply, let_step_in
from enginehouse.python_model import Call, Model, ModelError, Position, Response, infer, only_outputs
from tests.enginehouse.python_child import CONFIG, Heard, Make, job, opened_models
from tests.enginehouse.test_process_engine import is_gone, wait_until


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    yield from opened_models(tmp_path)


def test_a_model_knows_what_it_was_told(make: Make) -> None:
    source = """
    class M(Model):
        def initialize(self, arguments):
            self.a = arguments
        def execute(self, requests):
            (r,) = requests
            a = self.a
            told = f"{a.model} {a.version} {a.instance} {a.config['max_batch_size']} {a.parameters}"
            asked = f"{r.id} {r.outputs} {r.sequence.id} {r.sequence.is_end} {r.seconds_left} {sorted(r.parameters)}"
            return [Response({"y": r.inputs["x"]}, parameters={"told": told, "asked": asked})]
    """
    engine = make(source, CONFIG + 'parameters { key: "k" value { string_value: "v" } }', instance=4)
    heard = Heard()

    engine.execute([job(heard, id="seven", sequence=Position("s", is_end=True), seconds_left=2.5, parameters={"p": 1})])
    assert heard.last.parameters == {
        "told": "m 3 4 8 {'k': 'v'}",
        "asked": "seven ('y',) s True 2.5 ['p']",
    }


def test_inputs_may_be_written_to_and_kept(make: Make) -> None:
    source = """
    class M(Model):
        def initialize(self, arguments):
            self.kept = []
        def execute(self, requests):
            for r in requests:
                self.kept.append(r.inputs["x"])
                r.inputs["x"] += 1
            return [Response({"y": self.kept[0] * 10}) for r in requests]
    """
    engine = make(source)
    for value in (1, 5, 9):
        outputs = engine.run({"x": np.full((1, 2), value, np.float32)})
        assert outputs["y"].tolist() == [[20, 20]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "execute returned a NoneType for 2 requests"),
        ("return [Response()]", "execute returned 1 for 2 requests"),
        ("return [1, 2]", "execute returned a int in its list"),
        ("raise SystemExit(3)", "the model raised SystemExit: 3"),
        ("raise OSError('no such thing')", "the model raised OSError: no such thing"),
        ("return [Response(5)] * 2", "outputs and parameters must be mappings"),
        ("return [Response({'y': [[1], [1, 2]]})] * 2", "outputs and parameters must be mappings"),
        ("return [Response({'y': np.array([None])})] * 2", "neither text nor bytes"),
        ("return [Response(parameters={'p': object()})] * 2", "a message cannot be sent"),
        ("return [r.response_sender() for r in requests]", "only a decoupled model has response senders"),
    ],
)
def test_a_model_that_answers_nonsense_fails_its_batch_and_goes_on(make: Make, body: str, message: str) -> None:
    engine = make(f"class M:\n    def execute(self, requests):\n        {body}\n")
    for _ in range(2):
        heard = [Heard(), Heard()]
        engine.execute([job(one) for one in heard])
        for one in heard:
            assert isinstance(one.last.error, EngineFailed)
            assert message in str(one.last.error)


def test_one_response_that_cannot_be_sent_does_not_hurt_the_others(make: Make) -> None:
    body = (
        "return [Response({'y': np.zeros(2, complex) if r.inputs['x'][0, 0] > 1 else r.inputs['x']}) for r in requests]"
    )
    engine = make(f"class M:\n    def execute(self, requests):\n        {body}\n")
    heard = [Heard() for _ in range(3)]
    engine.execute([job(one, value) for one, value in zip(heard, (0, 5, 1), strict=True)])
    assert [one.last.error is None for one in heard] == [True, False, True]
    assert heard[2].last.outputs["y"].tolist() == [[1, 1]]


def test_a_request_that_cannot_be_sent_has_no_reply_and_the_next_one_has(make: Make) -> None:
    engine = make(
        "class M:\n    def execute(self, requests):\n        return [Response({'y': r.inputs['x']}) for r in requests]"
    )
    heard = Heard()
    with pytest.raises(InvalidInput, match="complex64"):
        engine.execute([Job({"x": np.zeros(2, np.complex64)}, heard.take)])
    assert not heard.replies
    assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[1, 1]]


def test_a_crash_fails_what_runs_and_what_is_open_and_takes_calls_back(make: Make) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            for r in requests:
                match r.parameters.get("do"):
                    case "keep":
                        self.kept = r.response_sender()
                    case "ask":
                        threading.Thread(target=infer, args=("other", {})).start()
                        r.response_sender().finish()
                    case "hang":
                        time.sleep(600)
    """
    engine = make(source, CONFIG + "model_transaction_policy { decoupled: true }")
    taken_back, asked = threading.Event(), threading.Event()

    def ask(call: ModelCall) -> Callable[[], object]:
        asked.set()
        return taken_back.set

    engine.connect(ask)
    kept, asking, hanging = Heard(), Heard(), Heard()
    engine.execute([job(kept, parameters={"do": "keep"}), job(asking, parameters={"do": "ask"})])
    assert asked.wait(30)
    assert asking.last.is_empty
    runner = threading.Thread(target=engine.execute, args=([job(hanging, parameters={"do": "hang"})],))
    runner.start()
    wait_until(lambda: len(engine._jobs) == 2)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    runner.join(30)
    for heard in (kept, hanging):
        assert isinstance(heard.last.error, EngineCrashed)
        assert "SIGKILL" in str(heard.last.error)
    assert taken_back.wait(30)
    assert not engine._jobs
    assert engine._conversation is None


def test_a_reply_that_cannot_be_read_ends_the_process_and_leaves_nobody_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 0.0)
    engine = make(
        "class M:\n    def execute(self, requests):\n        return [Response({'y': requests[0].inputs['x']})]"
    )
    accept, failures = IncomingTensors.accept, [OSError(24, "Too many open files")]

    def accept_but_once(self: IncomingTensors, number: int, descriptor: int) -> None:
        if failures:
            os.close(descriptor)
            raise failures.pop()
        accept(self, number, descriptor)

    monkeypatch.setattr(IncomingTensors, "accept", accept_but_once)
    heard, pid = Heard(), engine.pid
    runner = threading.Thread(target=engine.execute, args=([job(heard)],))
    runner.start()
    assert isinstance(heard.last.error, EngineCrashed)
    runner.join(30)
    wait_until(lambda: engine.pid not in (None, pid))
    again = Heard()
    engine.execute([job(again, value=3)])
    assert again.last.outputs["y"].tolist() == [[3, 3]]


def test_while_it_starts_again_requests_are_refused_unless_another_instance_steps_in(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY_SECONDS", 600.0)
    body = "return [Response({'y': r.inputs['x'] * 2}) for r in requests]"
    one, other = (make(f"class M:\n    def execute(self, requests):\n        {body}\n", instance=n) for n in (0, 1))
    end_of(one)
    with pytest.raises(NotReady, match=r"it starts again in \d+\.\d s"):
        one.execute([job(Heard())])
    let_step_in([one, other])
    assert one.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def end_of(engine: PythonEngine) -> None:
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine.pid != pid)


@pytest.mark.parametrize("is_sent_first", [True, False])
def test_a_model_hears_that_nobody_waits(make: Make, is_sent_first: bool) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            for r in requests:
                threading.Thread(target=self.wait, args=(r, r.response_sender())).start()
        def wait(self, request, sender):
            while not request.is_cancelled():
                time.sleep(0.01)
            sender.finish()
    """
    engine = make(source, CONFIG + "model_transaction_policy { decoupled: true }")
    heard, owner = Heard(), object()
    engine.execute([job(heard, owner=owner, is_cancelled=lambda: not is_sent_first)])
    if is_sent_first:
        engine.cancel(owner)
    assert heard.last.is_empty


def test_a_stream_of_large_responses_gives_its_memory_back(make: Make) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            for r in requests:
                sender = r.response_sender()
                for number in range(200):
                    sender.send(Response({"y": np.full((1, 200_000), number, np.float32)}))
                sender.finish()
    """
    engine = make(source, CONFIG + "model_transaction_policy { decoupled: true }")
    heard, before = Heard(), shared_blocks()
    engine.execute([job(heard)])
    assert heard.last.is_empty
    assert [int(reply.outputs["y"][0, -1]) for reply in heard.replies[:-1]] == list(range(200))
    assert shared_blocks() < before + 40, "blocks are used again once we said that we read them"


def shared_blocks() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:enginehouse")


def test_calls_reach_the_asker_and_answers_the_model(make: Make) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            return [Response({"y": sum(p["y"] for p in infer_stream("other", {"x": r.inputs["x"]}))}) for r in requests]
    """
    engine = make(source)

    def ask(call: ModelCall) -> Callable[[], object]:
        for number in (1, 2):
            call.reply(Reply({"y": call.inputs["x"] * number}, is_last=False))
        call.reply(Reply(is_empty=True))
        return lambda: None

    engine.connect(ask)
    assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 3]]


def test_an_answer_that_cannot_be_sent_is_an_error_to_the_model(make: Make) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            return [Response({"y": infer("other", {})["y"]}) for r in requests]
    """
    engine = make(source)

    def ask(call: ModelCall) -> Callable[[], object]:
        call.reply(Reply({"y": np.zeros(2, np.complex64)}))
        return lambda: None

    engine.connect(ask)
    with pytest.raises(EngineFailed, match="complex64"):
        engine.run({"x": np.ones((1, 2), np.float32)})


def test_closing_lets_the_model_finalize_and_ends_its_children(make: Make, tmp_path: Path) -> None:
    source = f"""
    import subprocess, sys
    class M(Model):
        def initialize(self, arguments):
            self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open("{tmp_path}/pid", "w").write(str(self.child.pid))
        def execute(self, requests):
            return []
        def finalize(self):
            open("{tmp_path}/finalized", "w").close()
    """
    engine = make(source)
    engine.close()
    assert (tmp_path / "finalized").exists()
    grandchild = int((tmp_path / "pid").read_text())
    wait_until(lambda: is_gone(grandchild) or "(python) Z" in Path(f"/proc/{grandchild}/stat").read_text())


def test_a_forked_child_of_the_model_does_not_hide_its_end(make: Make) -> None:
    source = """
    class M(Model):
        def execute(self, requests):
            if os.fork() == 0:
                time.sleep(600)
            os._exit(9)
    """
    heard = Heard()
    make(source).execute([job(heard)])
    assert "ended with status 9" in str(heard.last.error)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import triton_python_backend_utils as pb_utils", NotSupported, "exists only inside Triton"),
        ("import nonesuch", EngineFailed, "ModuleNotFoundError: No module named 'nonesuch'"),
        ("class A:\n    def execute(self): ...\nclass B(A): ...", InvalidInput, "found A, B"),
        (
            "class A(Model):\n    def initialize(self, a): raise ValueError('planted')",
            EngineFailed,
            "ValueError: planted",
        ),
        ("class A(Model):\n    def initialize(self, a): raise InvalidRequest('no file')", InvalidInput, "no file"),
    ],
)
def test_what_hinders_a_load_is_told(make: Make, source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(source)


def test_outside_a_server_a_model_is_told_that_there_is_none() -> None:
    with pytest.raises(ModelError, match="no server is here"):
        infer("other", {})
    with pytest.raises(ModelError, match="gave no response"):
        only_outputs("other", iter([]))
    with pytest.raises(NotImplementedError):
        Model().execute([])
    assert Call("m", {}).outputs == ()
    assert Response().error is None
