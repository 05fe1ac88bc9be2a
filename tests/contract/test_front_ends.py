"""Several servers on the same ports, with one engine: each goes on without the others."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from tests.conftest import DIGITS, ROOT, RunningService, StartService, run_service
from tests.contract.conftest import save_model
from tests.contract.test_isolation import make_slow_model, wait_until

SHARED = """
max_batch_size: 32
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "isolation" value { string_value: "shared" } }
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Sisters:
    """What servers have in common that stand side by side."""

    repository: Path
    directory: Path
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @contextmanager
    def front_end(self, *flags: str) -> Iterator[RunningService]:
        ports = ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        reuse = ["--reuse-http-port", "true", "--reuse-grpc-port", "true"]
        with run_service(self.repository, *ports, *reuse, "--shared-engines", str(self.directory), *flags) as running:
            yield running

    def engines(self) -> list[int]:
        """Processes that have an engine open for these servers."""
        return engines_in(self.directory)


def engines_in(directory: Path) -> list[int]:
    """Processes that are given this directory to meet in."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[3:4] != [b"enginehouse.processes.shared_worker"]:
                continue
            if (process / "fd" / words[7].decode()).readlink() == directory:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "lock")


@pytest.fixture
def sisters(tmp_path: Path) -> Iterator[Sisters]:
    version = tmp_path / "models" / "digits" / "1"
    version.mkdir(parents=True)
    shutil.copy(DIGITS / "digits.onnx", version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(SHARED)
    found = Sisters(tmp_path / "models", tmp_path / "engines")
    yield found
    wait_until(lambda: not found.engines())
    assert left_in(found.directory) == []


def metrics_of(front_end: RunningService) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{front_end.metrics_port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def answered_by(front_end: RunningService) -> float:
    lines = metrics_of(front_end).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("nv_inference_request_success{"))


def ask(sisters: Sisters, rows: NDArray[Any], model: str = "digits") -> NDArray[Any]:
    """Ask over a connection of its own, which any of the servers may get."""
    with triton_http.InferenceServerClient(f"127.0.0.1:{sisters.http_port}", network_timeout=60) as client:
        tensor = triton_http.InferInput("pixels", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        answer: NDArray[Any] = client.infer(model, [tensor]).as_numpy("logits")
        return answer


def ask_over_grpc(sisters: Sisters, rows: NDArray[Any]) -> NDArray[Any]:
    # Without this all clients of a process share one connection.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{sisters.grpc_port}", channel_args=alone) as client:
        tensor = triton_grpc.InferInput("pixels", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        answer: NDArray[Any] = client.infer("digits", [tensor], client_timeout=60).as_numpy("logits")
        return answer


@pytest.fixture
def rows(digits_data: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return digits_data["test/pixels"][:3]


@pytest.fixture
def expected(rows: NDArray[Any]) -> NDArray[Any]:
    return OnnxRuntimeEngine(DIGITS / "digits.onnx").run({"pixels": rows})["logits"]


@contextmanager
def at_one_moment(*starts: AbstractContextManager[RunningService]) -> Iterator[list[RunningService]]:
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(starts)) as pool:
            yielded = list(pool.map(lambda start: stack.enter_context(start), starts))
        yield yielded


def test_two_on_the_same_ports_answer_from_one_engine_and_each_goes_on_without_the_other(
    sisters: Sisters, rows: NDArray[Any], expected: NDArray[Any]
) -> None:
    with at_one_moment(sisters.front_end(), sisters.front_end()) as (one, other):
        (engine,) = sisters.engines()

        def both_answered() -> bool:
            np.testing.assert_allclose(ask(sisters, rows), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(ask_over_grpc(sisters, rows), expected, rtol=1e-5, atol=1e-5)
            return answered_by(one) > 1 and answered_by(other) > 1

        wait_until(both_answered)
        assert sisters.engines() == [engine]
        starter, left = (one, other) if parent_of(engine) == one.process.pid else (other, one)
        starter.process.kill()
        starter.process.wait()
        before = answered_by(left)
        for _ in range(10):
            np.testing.assert_allclose(ask(sisters, rows), expected, rtol=1e-5, atol=1e-5)
        assert answered_by(left) == before + 10
        assert sisters.engines() == [engine]
        with sisters.front_end() as successor:
            assert left.stop() == 0
            np.testing.assert_allclose(ask(sisters, rows), expected, rtol=1e-5, atol=1e-5)
            assert answered_by(successor) == 1
            assert sisters.engines() == [engine]


def parent_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


@dataclass
class Clients:
    """Clients that ask over and over, each over a connection of its own: what they were told, none left out."""

    sisters: Sisters
    rows: NDArray[Any]
    count: int
    answers: list[str] = field(default_factory=list)
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self._threads = [Thread(target=self._ask) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client was never answered"

    def _ask(self) -> None:
        with triton_http.InferenceServerClient(f"127.0.0.1:{self.sisters.http_port}", network_timeout=60) as client:
            tensor = triton_http.InferInput("x", list(self.rows.shape), "FP32")
            tensor.set_data_from_numpy(self.rows)
            while not self._stop.is_set():
                try:
                    answer = client.infer("slow", [tensor]).as_numpy("y")
                    self.answers.append("" if np.allclose(answer, self.rows) else "wrong")
                except InferenceServerException as problem:
                    self.answers.append(f"{problem.status()} {problem.message()}")
                    # A client that is refused comes back later.
                    time.sleep(0.02)


def test_a_killed_engine_fails_what_was_in_flight_and_both_go_on_with_one_new(sisters: Sisters) -> None:
    save_model(sisters.repository, "slow", make_slow_model(), SHARED)
    shutil.rmtree(sisters.repository / "digits")
    with at_one_moment(sisters.front_end(), sisters.front_end()) as front_ends:
        (engine,) = sisters.engines()
        with Clients(sisters, np.full((1, 64), 3, np.float32), 8) as clients:
            counts = [0.0, 0.0]

            def both_answer() -> bool:
                return all(answered_by(one) > count + 20 for one, count in zip(front_ends, counts, strict=True))

            wait_until(both_answer)
            os.kill(engine, signal.SIGKILL)
            wait_until(lambda: sisters.engines() not in ([], [engine]))
            counts = [answered_by(one) for one in front_ends]
            wait_until(both_answer)
            (new,) = sisters.engines()
            assert new != engine
    errors = [answer for answer in clients.answers if answer]
    crashed = [error for error in errors if error.startswith("500")]
    refused = [error for error in errors if error.startswith("503")]
    assert len(crashed) + len(refused) == len(errors), errors
    assert 1 <= len(crashed) <= clients.count, "only what was in flight"
    assert set(crashed) == {"500 the process of model 'slow' that several servers share ended while it computed."}
    assert all("start" in error and "Send the request again then" in error for error in refused), refused[:3]


def post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60).close()


def test_each_loads_for_itself_and_another_file_is_another_engine(
    start_service: StartService, sisters: Sisters, rows: NDArray[Any], expected: NDArray[Any]
) -> None:
    flags = ["--model-control-mode", "explicit", "--load-model", "*", "--shared-engines", str(sisters.directory)]
    with at_one_moment(*(start_service(sisters.repository, *flags) for _ in range(2))) as front_ends:
        at = [Sisters(sisters.repository, sisters.directory, one.http_port, one.grpc_port) for one in front_ends]
        (old,) = sisters.engines()
        post(f"{at[0].url}/v2/repository/models/digits/unload")
        np.testing.assert_allclose(ask(at[1], rows), expected, rtol=1e-5, atol=1e-5)
        post(f"{at[0].url}/v2/repository/models/digits/load")
        assert sisters.engines() == [old], "the same file is the same engine"
        file = sisters.repository / "digits" / "1" / "model.onnx"
        onnx.save(onnx.load(file), file)
        post(f"{at[0].url}/v2/repository/models/digits/load")
        assert len(sisters.engines()) == 2
        for sister in at:
            np.testing.assert_allclose(ask(sister, rows), expected, rtol=1e-5, atol=1e-5)
        post(f"{at[1].url}/v2/repository/models/digits/load")
        # Nobody has the old file open any more.
        wait_until(lambda: len(sisters.engines()) == 1)
        assert sisters.engines() != [old]
        np.testing.assert_allclose(ask(at[1], rows), expected, rtol=1e-5, atol=1e-5)


GATED = """
import time
from pathlib import Path
from enginehouse.python_model import Response
class Gated:
    def initialize(self, arguments):
        gate = Path(__file__).with_name("gate")
        gate.with_name("knock").write_text("")
        while not gate.exists():
            time.sleep(0.05)
    def execute(self, requests):
        return [Response({"y": request.inputs["x"]}) for request in requests]
"""
GATED_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""


def test_one_that_loads_takes_no_connections_from_one_that_serves(
    sisters: Sisters, rows: NDArray[Any], tmp_path: Path
) -> None:
    gated = tmp_path / "later" / "gated" / "1"
    gated.mkdir(parents=True)
    (gated / "model.py").write_text(GATED)
    (gated.parent / "config.pbtxt").write_text(GATED_CONFIG)
    shutil.copytree(sisters.repository / "digits", tmp_path / "later" / "digits")
    later = Sisters(tmp_path / "later", sisters.directory, sisters.http_port, sisters.grpc_port)
    with sisters.front_end() as one, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        starting = pool.submit(stack.enter_context, later.front_end())
        wait_until((gated / "knock").exists)
        for _ in range(20):
            ask(sisters, rows)
            ask_over_grpc(sisters, rows)
        assert answered_by(one) == 40
        (gated / "gate").write_text("")
        other = starting.result(60)
        wait_until(lambda: ask(sisters, rows) is not None and answered_by(other) > 0)


def test_one_that_is_ended_before_its_models_are_loaded_ends_in_order(sisters: Sisters, tmp_path: Path) -> None:
    sisters.directory.mkdir(mode=0o700)
    gated = tmp_path / "later" / "gated" / "1"
    gated.mkdir(parents=True)
    (gated / "model.py").write_text(GATED)
    (gated.parent / "config.pbtxt").write_text(GATED_CONFIG)
    flags = ["--reuse-http-port", "true", "--reuse-grpc-port", "true", "--exit-timeout-secs", "0"]
    command = [sys.executable, "-m", "service", "--model-repository", str(tmp_path / "later"), *flags]
    ports = ["--http-port", str(sisters.http_port), "--grpc-port", str(sisters.grpc_port), "--metrics-port", "0"]
    with subprocess.Popen([*command, *ports], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until((gated / "knock").exists)
        for port in (sisters.http_port, sisters.grpc_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said


def test_a_port_of_one_that_does_not_share_it_is_taken(start_service: StartService, sisters: Sisters) -> None:
    with start_service(sisters.repository, "--shared-engines", str(sisters.directory)) as alone:
        for protocol, taken in (("HTTP", alone.http_port), ("gRPC", alone.grpc_port)):
            name = protocol.lower()
            done = start(
                "--model-repository",
                str(sisters.repository),
                f"--{name}-port",
                str(taken),
                f"--reuse-{name}-port",
                "true",
            )
            assert done.returncode == 1
            assert f"cannot share 127.0.0.1:{taken} for {protocol}: Address already in use" in done.stderr
            assert f"Start all servers of that port with --reuse-{name}-port true" in done.stderr


def start(*flags: str) -> "subprocess.CompletedProcess[str]":
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "service", *ports, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_directory_that_others_may_write_to_is_refused(sisters: Sisters) -> None:
    sisters.directory.mkdir()
    sisters.directory.chmod(0o777)
    done = start("--model-repository", str(sisters.repository), "--shared-engines", str(sisters.directory))
    assert done.returncode == 1
    assert "with mode 0777, and must belong to user" in done.stderr
    assert "chmod 700" in done.stderr


def test_a_model_that_asks_to_share_is_refused_where_servers_do_not_meet(
    start_service: StartService, sisters: Sisters
) -> None:
    sisters.directory.mkdir()
    with start_service(sisters.repository) as alone:
        assert "parameter 'isolation' is 'shared'" in alone.output
        assert "start it with --shared-engines DIRECTORY, or ask for 'process'" in alone.output
