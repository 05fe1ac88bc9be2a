"""A Python model that answers without end, or asks one that does, through a real server: nothing grows with it."""

import json
import queue
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from tests.conftest import RunningService, StartService
from tests.contract.test_isolation import children, wait_until
from tests.contract.test_python_models import add_python_model, tensor

DECOUPLED = """
    backend: "python"
    input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
    output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 4096 ] } ]
    model_transaction_policy { decoupled: true }
"""
ORDINARY = """
    backend: "python"
    input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
    output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
ENDLESS = """
    import threading
    import numpy as np
    from enginehouse.python_model import Model, Response

    class Endless(Model):
        def execute(self, requests):
            for request in requests:
                threading.Thread(target=self.answer, args=(request, request.response_sender()), daemon=True).start()

        def answer(self, request, sender):
            while not request.is_cancelled():
                sender.send(Response({"OUT": np.arange(4096, dtype=np.int32)}))
            sender.finish()
"""
FIRST_OF = """
    import numpy as np
    from enginehouse.python_model import Model, Response, infer_stream

    class FirstOf(Model):
        def execute(self, requests):
            return [Response({"OUT": self.first(request.inputs["IN"])}) for request in requests]

        def first(self, value):
            for part in infer_stream("endless", {"IN": value}):
                return part["OUT"][:1] + value
"""


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("bounds")
    add_python_model(repository, "endless", ENDLESS, DECOUPLED)
    add_python_model(repository, "first_of", FIRST_OF, ORDINARY)
    with start_service(repository) as running:
        yield running


def seven(name: str = "IN") -> Any:
    return tensor(triton_grpc, name, np.array([7], np.int32), "INT32")


def memory(pid: int) -> int:
    """Resident bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_stream_without_end_takes_no_more_than_its_beginning(service: RunningService) -> None:
    (child,) = children(service, "endless")
    heard: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        client.async_stream_infer("endless", [seven()])
        for _ in range(500):
            assert heard.get(timeout=30)[1] is None
        pids = [child, service.process.pid]
        before = [memory(pid) for pid in pids]
        for _ in range(5000):
            assert heard.get(timeout=30)[1] is None
        grown = [memory(pid) - known for pid, known in zip(pids, before, strict=True)]
        # 80 MB were said; a reader who does not lag far behind holds the model back, not the memory.
        assert max(grown) < 20_000_000, grown
        assert descriptors(child) < 100
        assert descriptors(service.process.pid) < 150
        client.stop_stream(cancel_requests=True)


def test_a_reader_of_events_who_pauses_holds_the_model_back_and_misses_nothing(service: RunningService) -> None:
    (child,) = children(service, "endless")
    request = urllib.request.Request(
        f"{service.url}/v2/models/endless/generate_stream", json.dumps({"IN": [7]}).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        for _ in range(100):
            assert event(answer)[:3] == [0, 1, 2]
        wait_until(lambda: is_idle(child))
        # 1024 that wait would have ended it.
        for _ in range(2000):
            assert event(answer)[:3] == [0, 1, 2]


def event(answer: Any) -> list[int]:
    """The next event's numbers; what is empty or a comment is none."""
    while not (line := answer.readline()).startswith(b"data: "):
        assert line
    found = json.loads(line.removeprefix(b"data: "))
    assert "OUT" in found, found
    numbers: list[int] = found["OUT"]
    return numbers


def is_idle(pid: int) -> bool:
    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = ticks()
    time.sleep(0.3)
    return ticks() == before


def test_a_stream_that_another_model_lets_go_of_ends(service: RunningService) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        for _ in range(20):
            assert client.infer("first_of", [seven()]).as_numpy("OUT").tolist() == [7]
    (pid,) = children(service, "endless")
    wait_until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) < 12)
