"""A model in a process of its own: `kill -9` fails what it computed, and its neighbour does not notice."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model

ISOLATED = """
max_batch_size: 8
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: {count} }} ]
parameters {{ key: "isolation" value {{ string_value: "process" }} }}
"""
ORDINARY = "max_batch_size: 8 dynamic_batching { }"


def make_slow_model(repeats: int = 400) -> onnx.ModelProto:
    """`y = x`, the slow way: there is nearly always something in flight."""
    names = ["x", *(f"t{number}" for number in range(repeats)), "y"]
    nodes = [helper.make_node("MatMul", [a, "unit"], [b]) for a, b in pairwise(names)]
    unit = np.eye(64, dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor("unit", TensorProto.FLOAT, [64, 64], unit.ravel())],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("isolation")
    save_model(repository, "isolated", make_slow_model(), ISOLATED.format(count=1))
    save_model(repository, "pair", make_slow_model(), ISOLATED.format(count=2))
    save_model(repository, "neighbour", make_slow_model(4), ORDINARY)
    flags = ["--model-control-mode", "explicit", "--load-model", "*"]
    with start_service(repository, *flags) as running:
        yield running


def children(service: RunningService, model: str) -> list[int]:
    """Processes of a model that are running, not those that wait to be collected."""
    found = []
    for task in Path(f"/proc/{service.process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[3:5] == [b"enginehouse.processes.process_worker", model.encode()]:
                found.append(int(pid))
    return found


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Clients:
    """Several clients that ask one model over and over: what they were told, and how long that took."""

    service: RunningService
    model: str
    count: int
    answers: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client was never answered"

    def _ask(self, number: int) -> None:
        row = np.full((1, 64), number, np.float32)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{self.service.grpc_port}") as client:
            while not self._stop.is_set():
                tensor = triton_grpc.InferInput("x", [1, 64], "FP32")
                tensor.set_data_from_numpy(row)
                begun = time.monotonic()
                try:
                    answer = client.infer(self.model, [tensor], client_timeout=60)
                    self.wrong += not np.allclose(answer.as_numpy("y"), row)
                    self.answers.append("")
                except InferenceServerException as problem:
                    self.answers.append(f"{problem.status()} {problem.message()}")
                    # A client that is refused comes back later.
                    time.sleep(0.02)
                self.seconds.append(time.monotonic() - begun)

    def have_answers(self, count: int) -> bool:
        return self.answers.count("") > count

    def p99(self) -> float:
        return float(np.percentile(self.seconds, 99))


def test_an_isolated_model_answers_and_its_weights_are_elsewhere(service: RunningService) -> None:
    (pid,) = children(service, "isolated")
    assert pid != service.process.pid
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        tensor = triton_http.InferInput("x", [3, 64], "FP32")
        rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
        tensor.set_data_from_numpy(rows)
        np.testing.assert_allclose(client.infer("isolated", [tensor]).as_numpy("y"), rows)
    assert (
        "libonnxruntime" in Path(f"/proc/{pid}/maps").read_text()
        or "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
    )


def test_a_kill_fails_what_was_in_flight_and_nothing_else(service: RunningService) -> None:
    with Clients(service, "isolated", 4) as victims, Clients(service, "neighbour", 2) as others:
        wait_until(lambda: len(others.seconds) > 300)
        undisturbed = others.p99()
        others.seconds.clear()
        for _ in range(3):
            wait_until(lambda: children(service, "isolated"))
            answered = victims.answers.count("")
            wait_until(partial(victims.have_answers, answered + 20))
            os.kill(children(service, "isolated")[0], signal.SIGKILL)
        wait_until(lambda: len(others.seconds) > 300)
        before = victims.answers.count("")
        wait_until(lambda: victims.answers.count("") > before + 20)
        disturbed = others.p99()
    assert victims.wrong == others.wrong == 0
    assert set(others.answers) == {""}
    errors = [answer for answer in victims.answers if answer]
    crashed = [error for error in errors if error.startswith("StatusCode.INTERNAL")]
    refused = [error for error in errors if error.startswith("StatusCode.UNAVAILABLE")]
    assert len(crashed) + len(refused) == len(errors)
    assert 1 <= len(crashed) <= 3 * victims.count, "only what was in flight"
    assert all("was ended by signal 9 (SIGKILL) while it computed" in error for error in crashed)
    assert all("start" in error and "SIGKILL" in error for error in refused), refused[:3]
    # They share two cores with a process that starts; what they do not share is its fate.
    assert disturbed < max(10 * undisturbed, 0.5), (undisturbed, disturbed)


def test_with_two_instances_a_kill_costs_no_more_than_what_was_in_flight(service: RunningService) -> None:
    with Clients(service, "pair", 3) as clients:
        wait_until(lambda: clients.answers.count("") > 20)
        os.kill(children(service, "pair")[0], signal.SIGKILL)
        wait_until(lambda: len(children(service, "pair")) == 2)
        before = clients.answers.count("")
        wait_until(lambda: clients.answers.count("") > before + 20)
    errors = [answer for answer in clients.answers if answer]
    assert len(errors) <= clients.count
    assert all(error.startswith("StatusCode.INTERNAL") for error in errors), errors


def test_an_unload_ends_the_process(service: RunningService) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        (pid,) = children(service, "isolated")
        client.unload_model("isolated")
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        client.load_model("isolated")
        assert children(service, "isolated")


def test_the_processes_end_with_a_server_that_is_killed(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "isolated", make_slow_model(4), ISOLATED.format(count=2))
    with start_service(tmp_path) as running:
        pids = children(running, "isolated")
        assert len(pids) == 2
        running.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_an_interrupt_from_the_keyboard_lets_the_server_end_its_processes(
    start_service: StartService, tmp_path: Path
) -> None:
    save_model(tmp_path, "isolated", make_slow_model(4), ISOLATED.format(count=1))
    with start_service(tmp_path) as running:
        (pid,) = children(running, "isolated")
        assert os.getpgid(pid) != os.getpgid(running.process.pid), "the terminal would interrupt both"
        assert running.stop() == 0
        assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_hangs_is_ended_when_its_model_is_unloaded(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "isolated", make_slow_model(4), ISOLATED.format(count=1))
    flags = ["--model-control-mode", "explicit", "--load-model", "*", "--exit-timeout-secs", "1"]
    with start_service(tmp_path, *flags) as running:
        (pid,) = children(running, "isolated")
        with Clients(running, "isolated", 2) as clients:
            wait_until(partial(clients.have_answers, 5))
            os.kill(pid, signal.SIGSTOP)
            with triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client:
                client.unload_model("isolated")
            wait_until(lambda: not Path(f"/proc/{pid}").exists())
        assert any("was stopped before it could answer" in answer for answer in clients.answers)


def test_an_unknown_isolation_is_refused_by_name(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "odd", make_slow_model(1), ISOLATED.format(count=1).replace('"process"', '"container"'))
    with start_service(tmp_path) as running:
        assert "parameter 'isolation' is 'container'; 'process', 'shared' or 'none' expected" in running.output
