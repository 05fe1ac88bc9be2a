"""A model whose process is being started again is not ready, says why, and is ready when it is back."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model
from tests.contract.test_ensemble import save_ensemble
from tests.contract.test_isolation import ISOLATED, children, make_slow_model, wait_until
from tests.contract.test_python_models import CONFIGS, TEXT, add_python_model
from tests.service.fake_steps import step_text

# Its second start and all that follow end at once, as long as a file says so.
MORTAL = """
    import os
    from pathlib import Path
    from enginehouse.python_model import Response

    class Mortal:
        def initialize(self, arguments):
            if (Path(arguments.directory) / "die").exists():
                os._exit(3)

        def execute(self, requests):
            if requests[0].inputs["in"][0, 0] == b"die":
                os.kill(os.getpid(), 9)
            return [Response({"out": r.inputs["in"]}) for r in requests]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("presence")


@pytest.fixture(scope="module")
def service(start_service: StartService, root: Path) -> Iterator[RunningService]:
    save_model(root, "isolated", make_slow_model(2), ISOLATED.format(count=1))
    save_model(root, "pair", make_slow_model(2), ISOLATED.format(count=2))
    add_python_model(root, "mortal", MORTAL, CONFIGS["text"])
    add_python_model(root, "upper", TEXT, CONFIGS["text"])
    steps = [step_text("upper", {"in": "a"}, {"out": "b"}), step_text("mortal", {"in": "b"}, {"out": "c"})]
    save_ensemble(root, "both", steps, {"a": ("TYPE_STRING", "-1")}, {"c": ("TYPE_STRING", "-1")}, max_batch_size=4)
    flags = ["--model-control-mode", "explicit", "--load-model", "*"]
    with start_service(root, *flags) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        yield client


@pytest.fixture
def grpc_client(service: RunningService) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        yield client


def status(service: RunningService, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{service.url}{path}") as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, json.load(answer)


def health(service: RunningService) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest()).status)


def row(http: Any, model: str) -> tuple[str, str]:
    (found,) = [one for one in http.get_model_repository_index() if one["name"] == model]
    return found["state"], found.get("reason", "")


def stop(service: RunningService, model: str) -> None:
    """Kill a process and let the next one hang in its start, until `wake`."""
    (pid,) = children(service, model)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: children(service, model) not in ([], [pid]))
    os.kill(children(service, model)[0], signal.SIGSTOP)


def wake(service: RunningService, model: str) -> None:
    os.kill(children(service, model)[0], signal.SIGCONT)


def test_an_isolated_model_is_not_ready_until_its_process_is_back(
    service: RunningService, http: Any, grpc_client: Any
) -> None:
    assert http.is_model_ready("isolated")
    assert http.is_server_ready()
    stop(service, "isolated")
    assert status(service, "/v2/models/isolated/ready") == (503, {"name": "isolated", "ready": False})
    assert status(service, "/v2/models/isolated/versions/1/ready")[0] == 503
    assert not grpc_client.is_model_ready("isolated")
    state, reason = row(http, "isolated")
    assert state == "UNAVAILABLE"
    assert reason.startswith("the process of model 'isolated' was ended by signal 9 (SIGKILL); it")
    assert "isolated" not in [
        one.name for one in grpc_client.get_model_repository_index().models if one.state == "READY"
    ]
    # The server was started with it, and is strict.
    assert status(service, "/v2/health/ready") == (503, {"live": True, "ready": False})
    assert not grpc_client.is_server_ready()
    wait_until(lambda: health(service) == health_pb2.HealthCheckResponse.NOT_SERVING)
    assert http.is_server_live()
    wait_until(lambda: "model 'isolated' version 1 is not ready: the process of model 'isolated'" in service.output)
    wake(service, "isolated")
    wait_until(lambda: http.is_model_ready("isolated"))
    assert row(http, "isolated") == ("READY", "")
    assert http.is_server_ready()
    wait_until(lambda: health(service) == health_pb2.HealthCheckResponse.SERVING)
    wait_until(lambda: "model 'isolated' version 1 is ready again" in service.output)


def test_of_two_instances_one_is_enough(service: RunningService, http: Any) -> None:
    pids = children(service, "pair")
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: any(pid not in pids for pid in children(service, "pair")))
    assert http.is_model_ready("pair")
    assert row(http, "pair")[0] == "READY"
    assert http.is_server_ready()
    wait_until(lambda: len(children(service, "pair")) == 2)


def ask(client: Any, model: str, name: str, word: str) -> Any:
    library = triton_grpc if isinstance(client, triton_grpc.InferenceServerClient) else triton_http
    tensor = library.InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[word.encode()]], np.object_))
    return client.infer(model, [tensor])


def test_a_python_model_that_ends_in_each_start_is_not_ready_and_neither_is_its_ensemble(
    service: RunningService, http: Any, root: Path
) -> None:
    assert ask(http, "both", "a", "x").as_numpy("c").tolist() == [[b"X"]]
    (root / "mortal" / "1" / "die").touch()
    with pytest.raises(InferenceServerException) as problem:
        ask(http, "mortal", "in", "die")
    assert "SIGKILL) while it computed" in str(problem.value)
    wait_until(lambda: "ended with status 3 before it was ready" in row(http, "mortal")[1])
    assert not http.is_model_ready("mortal")
    assert not http.is_model_ready("both")
    assert row(http, "both")[1].startswith("step 'mortal' does not answer: the process of model 'mortal' did not start")
    with pytest.raises(InferenceServerException, match=r"in ensemble 'both', .*the process of model 'mortal'"):
        ask(http, "both", "a", "x")
    (root / "mortal" / "1" / "die").unlink()
    wait_until(lambda: http.is_model_ready("both"))
    assert ask(http, "both", "a", "x").as_numpy("c").tolist() == [[b"X"]]


def test_a_crash_inside_an_ensemble_names_the_step(service: RunningService, http: Any, grpc_client: Any) -> None:
    wait_until(lambda: http.is_model_ready("both"))
    (pid,) = children(service, "mortal")
    os.kill(pid, signal.SIGSTOP)
    before = count_of(http, "upper")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, grpc_client, "both", "a", "x")
        wait_until(lambda: count_of(http, "upper") > before)
        os.kill(pid, signal.SIGKILL)
        problem = waiting.exception(30)
    assert "in ensemble 'both', " in str(problem)
    assert "the process of model 'mortal' was ended by signal 9 (SIGKILL)" in str(problem)


def count_of(http: Any, model: str) -> int:
    return int(http.get_inference_statistics(model)["model_stats"][0]["inference_count"])
