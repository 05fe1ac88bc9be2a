"""A Python model that answers without end, or asks one that does, through a real server: nothing grows with it."""

import queue
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
        before = memory(child)
        for _ in range(5000):
            assert heard.get(timeout=30)[1] is None
        assert memory(child) < before + 8_000_000
        assert descriptors(child) < 100
        assert descriptors(service.process.pid) < 150
        client.stop_stream(cancel_requests=True)


def test_a_stream_that_another_model_lets_go_of_ends(service: RunningService) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        for _ in range(20):
            assert client.infer("first_of", [seven()]).as_numpy("OUT").tolist() == [7]
    (pid,) = children(service, "endless")
    wait_until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) < 12)
