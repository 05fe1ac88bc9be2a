"""Ensembles with steps that are written in Python: text in front of an engine, and any number of answers."""

import os
import queue
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import save_model
from tests.contract.test_ensemble import save_ensemble
from tests.contract.test_isolation import wait_until
from tests.service.fake_steps import step_text

LENGTHS = """
    import os
    import time
    import numpy as np
    from enginehouse.python_model import Response

    class Lengths:
        def execute(self, requests):
            mark = requests[0].parameters.get("mark")
            if mark:
                open(mark, "w").close()
                time.sleep(30)
            return [self.one(request) for request in requests]

        def one(self, request):
            words = request.inputs["words"].ravel()
            lengths = np.array([[len(word) for word in words]], np.int32)
            return Response({"lengths": lengths, "pid": np.array([[os.getpid()]], np.int64)})
"""
LENGTHS_CONFIG = """
    backend: "python"
    max_batch_size: 1
    input { name: "words" data_type: TYPE_STRING dims: [ -1 ] }
    output { name: "lengths" data_type: TYPE_INT32 dims: [ -1 ] }
    output { name: "pid" data_type: TYPE_INT64 dims: [ 1 ] }
"""
COUNT = """
    import numpy as np
    from enginehouse.python_model import Response

    class Count:
        def execute(self, requests):
            for request in requests:
                sender = request.response_sender()
                for number in range(int(request.inputs["to"][0])):
                    sender.send(Response({"number": np.array([number], np.int32)}))
                sender.finish()
"""
COUNT_CONFIG = """
    backend: "python"
    input { name: "to" data_type: TYPE_INT32 dims: [ 1 ] }
    output { name: "number" data_type: TYPE_INT32 dims: [ 1 ] }
    model_transaction_policy { decoupled: true }
"""


def save_python_model(repository: Path, name: str, source: str, config: str) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(dedent(source))
    (repository / name / "config.pbtxt").write_text(dedent(config))


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    root = tmp_path_factory.mktemp("python_ensembles")
    save_python_model(root, "lengths", LENGTHS, LENGTHS_CONFIG)
    save_python_model(root, "count", COUNT, COUNT_CONFIG)
    save_model(root, "identity", make_identity_model(TensorProto.INT32, ("batch", "n")))
    steps = [
        step_text("lengths", {"words": "words"}, {"lengths": "p", "pid": "pid"}),
        step_text("identity", {"INPUT0": "p"}, {"OUTPUT0": "lengths"}),
    ]
    outputs = {"lengths": ("TYPE_INT32", "-1"), "pid": ("TYPE_INT64", "1")}
    save_ensemble(root, "text", steps, {"words": ("TYPE_STRING", "-1")}, outputs, max_batch_size=1)
    steps = [
        step_text("count", {"to": "to"}, {"number": "p"}),
        step_text("identity", {"INPUT0": "p"}, {"OUTPUT0": "number"}),
    ]
    save_ensemble(root, "counting", steps, {"to": ("TYPE_INT32", "1")}, {"number": ("TYPE_INT32", "1")}, 0)
    with start_service(root) as running:
        yield running


def words(transport: Any, *items: str) -> Any:
    tensor = transport.InferInput("words", [1, len(items)], "BYTES")
    tensor.set_data_from_numpy(np.array([[item.encode() for item in items]], np.object_))
    return tensor


def test_text_becomes_numbers_and_then_an_engine_has_them(service: RunningService) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        answer = client.infer("text", [words(triton_http, "one", "three", "")])
    assert answer.as_numpy("lengths").tolist() == [[3, 5, 0]]


def test_a_step_that_dies_fails_its_request_once_and_comes_back(service: RunningService, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (
        triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = [words(triton_grpc, "one")]
        pid = int(client.infer("text", asked).as_numpy("pid")[0, 0])
        waiting = pool.submit(client.infer, "text", asked, parameters={"mark": str(mark)})
        wait_until(mark.exists)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(InferenceServerException, match="in ensemble 'text', "):
            waiting.result(timeout=20)
        wait_until(lambda: answers(client, asked))
        assert int(client.infer("text", asked).as_numpy("pid")[0, 0]) != pid


def answers(client: Any, asked: list[Any]) -> bool:
    try:
        client.infer("text", asked)
    except InferenceServerException:
        return False
    return True


class Stream:
    """One bidirectional stream, and everything that came back on it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._heard: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        client.start_stream(lambda result, error: self._heard.put((result, error)))

    def ask(self, to: int, request_id: str) -> None:
        tensor = triton_grpc.InferInput("to", [1], "INT32")
        tensor.set_data_from_numpy(np.array([to], np.int32))
        self._client.async_stream_infer("counting", [tensor], request_id=request_id, enable_empty_final_response=True)

    def collect(self, ends: int) -> dict[str, list[int]]:
        """Numbers by request, until so many have ended."""
        found: dict[str, list[int]] = {}
        while ends:
            result, error = self._heard.get(timeout=30)
            assert error is None, error
            response = result.get_response()
            numbers = result.as_numpy("number")
            found.setdefault(response.id, []).extend([] if numbers is None else numbers.tolist())
            ends -= response.parameters["triton_final_response"].bool_param
        return found


def test_an_ensemble_with_a_decoupled_step_streams_in_order(service: RunningService) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        assert client.get_model_config("counting").config.model_transaction_policy.decoupled
        stream = Stream(client)
        for to in (5, 0, 200):
            stream.ask(to, f"to {to}")
        assert stream.collect(3) == {"to 5": [*range(5)], "to 0": [], "to 200": [*range(200)]}
        client.stop_stream()


def test_a_decoupled_ensemble_is_refused_without_a_stream(service: RunningService) -> None:
    tensor = triton_http.InferInput("to", [1], "INT32")
    tensor.set_data_from_numpy(np.array([3], np.int32))
    with (
        triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client,
        pytest.raises(InferenceServerException, match="decoupled") as told,
    ):
        client.infer("counting", [tensor])
    assert told.value.status() == "501"
