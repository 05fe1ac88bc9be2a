"""A Python model that never stops answering or asking takes a bounded amount of memory and descriptors, here and there.

Each of them runs in a real process.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.errors import EngineFailed
from enginehouse.processes import python_conversation
from enginehouse.processes.python_conversation import OpenCalls
from enginehouse.processes.python_host import MAX_OPEN_CALLS, MAX_UNTAKEN_RESPONSES
from enginehouse.python_engine import ModelCall, PythonEngine, Reply
from tests.enginehouse.python_child import CONFIG, Heard, Make, job, opened_models
from tests.enginehouse.test_process_engine import wait_until

DECOUPLED = CONFIG + "model_transaction_policy { decoupled: true }"
ENDLESS = """
class M(Model):
    def execute(self, requests):
        for r in requests:
            threading.Thread(target=self.answer, args=(r, r.response_sender()), daemon=True).start()

    def answer(self, request, sender):
        number = 0
        while request.parameters.get("heeds") is None or not request.is_cancelled():
            sender.send(Response({"y": np.full((1, request.parameters["size"]), number, np.float32)}))
            number += 1
            if number == request.parameters.get("count"):
                break
        sender.finish()
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    yield from opened_models(tmp_path)


class Slow(Heard):
    """Passes nothing on before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[], None]] = []

    def take(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.held.append(reply.taken)

    def pass_on(self) -> None:
        held, self.held = self.held, []
        for taken in held:
            taken()


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory(pid: int | str = "self") -> int:
    """Bytes of blocks that are shared, which a resident set counts for each side."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "memfd:enginehouse" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def is_waiting(engine: PythonEngine) -> bool:
    """Whether every thread of the child sleeps, twice in a row: none is sending."""

    def switches() -> list[str]:
        tasks = Path(f"/proc/{engine.pid}/task").iterdir()
        return [line for task in tasks for line in (task / "status").read_text().splitlines() if "ctxt" in line]

    before = switches()
    time.sleep(0.2)
    return before == switches()


@pytest.mark.parametrize(("size", "most"), [(1, MAX_UNTAKEN_RESPONSES), (1_000_000, 4), (5_000_000, 1)])
def test_a_model_waits_while_its_responses_are_not_passed_on(make: Make, size: int, most: int) -> None:
    engine = make(ENDLESS, DECOUPLED)
    before = descriptors()
    heard = Slow()
    engine.execute([job(heard, parameters={"size": size})])
    for turn in range(1, 4):
        wait_until(lambda: len(heard.held) == most)
        wait_until(lambda: is_waiting(engine))
        assert len(heard.held) == most
        assert len(heard.replies) == most * turn, "each is here once"
        heard.pass_on()
    # Of each block both sides keep one.
    assert engine.pid is not None
    assert descriptors() <= before + most + 4
    assert descriptors(engine.pid) <= most + 30
    wait_until(lambda: len(heard.held) == most)
    engine.kill()
    wait_until(lambda: heard.replies[-1].is_last)


def test_nothing_is_lost_or_out_of_order_when_it_waits(make: Make) -> None:
    engine = make(ENDLESS, DECOUPLED)
    heard = Heard()
    engine.execute([job(heard, parameters={"size": 2, "count": 5000})])
    assert heard.last.is_empty
    assert [int(reply.outputs["y"][0, 0]) for reply in heard.replies[:-1]] == list(range(5000))
    assert memory() < 200 << 16


def test_a_model_waits_for_a_caller_who_is_behind_and_for_no_other(make: Make) -> None:
    engine = make(ENDLESS, DECOUPLED)
    slow, fast, owner = Heard(), Heard(), object()
    engine.execute([job(slow, parameters={"size": 1, "heeds": 1}, owner=owner)])
    wait_until(lambda: bool(slow.replies))
    engine.pace(owner, is_behind=True)
    wait_until(lambda: is_waiting(engine))
    count = len(slow.replies)
    engine.execute([job(fast, parameters={"size": 1, "count": 300})])
    assert fast.last.is_empty
    assert len(slow.replies) == count
    engine.pace(owner, is_behind=False)
    wait_until(lambda: len(slow.replies) > count + 200)
    engine.pace(owner, is_behind=True)
    wait_until(lambda: is_waiting(engine))
    engine.cancel(owner)
    assert slow.last.is_empty, "who leaves is waited for no more"


def test_responses_to_who_has_left_are_not_sent(make: Make) -> None:
    engine = make(ENDLESS, DECOUPLED)
    heard, owner = Slow(), object()
    engine.execute([job(heard, parameters={"size": 1}, owner=owner)])
    wait_until(lambda: len(heard.held) == MAX_UNTAKEN_RESPONSES)
    engine.cancel(owner)
    heard.pass_on()
    # The child sends what waited for room; then it goes on for nobody, and the next request is served meanwhile.
    other = Heard()
    engine.execute([job(other, parameters={"size": 1, "count": 100})])
    assert other.last.is_empty
    heard.pass_on()
    count = len(heard.replies)
    again = Heard()
    engine.execute([job(again, parameters={"size": 1, "count": 100})])
    assert again.last.is_empty
    assert len(heard.replies) == count


def test_a_model_that_waits_ends_with_its_server(make: Make, tmp_path: Path) -> None:
    source = ENDLESS.replace("sender.finish()", "pass").replace(
        "sender.send(", f"open('{tmp_path}/sent', 'a').write('.'), sender.send("
    )
    engine = make(source, DECOUPLED)
    heard = Slow()
    engine.execute([job(heard, parameters={"size": 1})])
    wait_until(lambda: len(heard.held) == MAX_UNTAKEN_RESPONSES)
    begun = time.monotonic()
    engine.close()
    assert time.monotonic() - begun < 8
    assert heard.replies[-1].is_last


class Others:
    """Other models, which answer as a test says."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.taken_back: list[ModelCall] = []
        self.came = threading.Event()

    def ask(self, call: ModelCall) -> Callable[[], object]:
        self.calls.append(call)
        self.came.set()
        return lambda: self.taken_back.append(call)


def asking(make: Make, body: str, others: Others) -> PythonEngine:
    engine = make(f"class M(Model):\n    def execute(self, requests):\n        {body}\n")
    engine.connect(others.ask)
    return engine


def in_background(engine: PythonEngine, **fields: Any) -> Heard:
    heard = Heard()
    threading.Thread(target=engine.execute, args=([job(heard, **fields)],)).start()
    return heard


def test_a_stream_that_is_let_go_of_is_taken_back(make: Make) -> None:
    others = Others()
    engine = asking(
        make,
        "\n        ".join(
            [
                "for part in infer_stream('other', {}):",
                "    break",
                "return [Response({'y': part['y']})]",
            ]
        ),
        others,
    )
    heard = in_background(engine)
    assert others.came.wait(30)
    others.calls[0].reply(Reply({"y": np.ones((1, 2), np.float32)}, is_last=False))
    assert heard.last.outputs["y"].tolist() == [[1, 1]]
    wait_until(lambda: others.taken_back == others.calls)
    others.calls[0].reply(Reply({"y": np.ones((1, 2), np.float32)}))


def test_infer_takes_no_more_of_a_stream_than_shows_that_it_is_one(make: Make) -> None:
    others = Others()
    engine = asking(make, "infer('other', {})", others)
    heard = in_background(engine)
    assert others.came.wait(30)
    for _ in range(2):
        others.calls[0].reply(Reply({"y": np.ones((1, 2), np.float32)}, is_last=False))
    assert "gave more than one response" in str(heard.last.error)
    wait_until(lambda: others.taken_back == others.calls)


@pytest.mark.parametrize(("size", "most"), [(1, 500), (1_000_000, 12)])
def test_answers_that_the_model_does_not_read_end_its_call(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    monkeypatch.setattr(python_conversation, "MAX_UNREAD_ANSWERS", 500)
    monkeypatch.setattr(python_conversation, "MAX_UNREAD_BYTES", 50_000_000)
    others = Others()
    body = f"""
        stream = infer_stream('other', {{}})
        read = [next(stream)]
        while not os.path.exists('{tmp_path}/go'):
            time.sleep(0.01)
        try:
            for part in stream:
                read.append(part)
        except ModelError as problem:
            return [Response(error=f'{{len(read)}} {{problem}}')]
    """
    engine = asking(make, body.strip(), others)
    heard = in_background(engine)
    assert others.came.wait(30)
    before = descriptors()
    given = 0
    while not others.taken_back:
        others.calls[0].reply(Reply({"y": np.zeros((1, size), np.float32)}, is_last=False))
        given += 1
        assert given <= most + 1
    assert descriptors() <= before + 20, "what the child has not copied waits here"
    (tmp_path / "go").touch()
    assert isinstance(heard.last.error, EngineFailed)
    assert f"{most} 10000 answers of other models" in str(heard.last.error)
    assert "read faster, or ask for fewer" in str(heard.last.error)


def test_answers_that_are_read_may_be_any_number(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_conversation, "MAX_UNREAD_ANSWERS", 300)
    others = Others()
    engine = asking(make, "return [Response({'y': sum(p['y'] for p in infer_stream('other', {}))})]", others)
    heard = in_background(engine)
    assert others.came.wait(30)
    calls = engine._conversation.calls  # type: ignore[union-attr]
    before = descriptors()
    for _ in range(3000):
        wait_until(lambda: calls._unread < 200)
        others.calls[0].reply(Reply({"y": np.ones((1, 2), np.float32)}, is_last=False))
    others.calls[0].reply(Reply(is_empty=True))
    assert heard.last.outputs["y"].tolist() == [[3000, 3000]]
    assert descriptors() <= before + 20
    assert (calls._unread, calls._unread_bytes, len(calls)) == (0, 0, 0)


def test_calls_without_end_are_refused_by_name(make: Make) -> None:
    others = Others()
    body = """
        from concurrent.futures import ThreadPoolExecutor, wait
        def ask(number):
            try:
                infer('other', {'x': requests[0].inputs['x']})
            except ModelError as problem:
                return str(problem)
        with ThreadPoolExecutor(1200) as pool:
            told = [one for one in pool.map(ask, range(1200)) if one]
        return [Response({'y': requests[0].inputs['x']}, parameters={'count': len(told), 'told': told[0]})]
    """
    engine = asking(make, body.strip(), others)
    before = descriptors()
    heard = in_background(engine)
    wait_until(lambda: len(others.calls) >= MAX_OPEN_CALLS)
    wait_until(lambda: is_waiting(engine))
    assert MAX_OPEN_CALLS <= len(others.calls) < 1100
    assert descriptors() < before + 400
    for call in others.calls:
        call.reply(Reply({"y": np.ones((1, 2), np.float32)}))
    told = heard.last.parameters
    assert told["count"] == 1200 - len(others.calls)
    assert f"model 'other' cannot be asked: {MAX_OPEN_CALLS} calls have no last answer yet" in str(told["told"])


def test_a_process_that_copies_nothing_is_sent_little(make: Make) -> None:
    others = Others()
    engine = asking(make, "return [Response({'y': sum(p['y'] for p in infer_stream('other', {}))})]", others)
    heard = in_background(engine)
    assert others.came.wait(30)
    assert engine.pid is not None
    before = descriptors()
    os.kill(engine.pid, 19)
    for _ in range(2000):
        others.calls[0].reply(Reply({"y": np.ones((1, 2), np.float32)}, is_last=False))
    assert descriptors() <= before + 20
    os.kill(engine.pid, 18)
    others.calls[0].reply(Reply(is_empty=True))
    assert heard.last.outputs["y"].tolist() == [[2000, 2000]]


def test_what_one_call_left_unread_is_room_for_the_next() -> None:
    calls = OpenCalls()
    calls.open(1)
    assert all(calls.add_unread(1, 10) for _ in range(python_conversation.MAX_UNREAD_ANSWERS))
    assert not calls.add_unread(1, 10)
    calls.read(1, 5, 50)
    assert calls.add_unread(1, 10)
    assert calls.close(1) is not None
    assert calls.close(1) is None
    calls.open(2)
    assert calls.add_unread(2, 2 * python_conversation.MAX_UNREAD_BYTES), "one alone may have any size"
    assert not calls.add_unread(2, 0)
    calls.read(1, 5, 50)
    assert calls.add_unread(7, 0) is False
