"""Fixtures that more than one test tree needs: real server processes, real model files."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"
START_TIMEOUT_SECONDS = 60


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Builds of the tests share trials with one another, and with nobody's builds outside."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@dataclass
class RunningService:
    """A real `python -m service` process on free ports of the loopback."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    announced: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def http_port(self) -> int:
        return self._port(r"HTTP +http://127\.0\.0\.1:(\d+)")

    @property
    def grpc_port(self) -> int:
        return self._port(r"gRPC +127\.0\.0\.1:(\d+)")

    @property
    def metrics_port(self) -> int:
        return self._port(r"metrics +http://127\.0\.0\.1:(\d+)")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def stop(self) -> int:
        """Ask for the end as Kubernetes does, and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=START_TIMEOUT_SECONDS)

    def _port(self, pattern: str) -> int:
        found = re.search(pattern, self.output)
        assert found is not None, f"no address in the output:\n{self.output}"
        return int(found.group(1))

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("  metrics "):
                self.announced.set()
        self.announced.set()


StartService = Callable[..., AbstractContextManager[RunningService]]


@contextmanager
def run_service(
    repository: Path | str, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[RunningService]:
    """Start a server, wait until it has announced its addresses, and stop it at the end."""
    command = [sys.executable, "-m", "service", "--model-repository", str(repository)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        [*command, *ports, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    service = RunningService(process)
    reader = threading.Thread(target=service.read)
    reader.start()
    try:
        assert service.announced.wait(START_TIMEOUT_SECONDS), f"the service did not start:\n{service.output}"
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=START_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def start_service() -> StartService:
    """`with start_service(repository, "--flag", "value") as service:` gives a `RunningService`."""
    return run_service


@pytest.fixture(scope="session")
def digits_data() -> dict[str, NDArray[np.generic]]:
    """The arrays of the digits example, `<split>/<name>`."""
    with np.load(DIGITS / "digits.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def identity_model() -> Callable[..., onnx.ModelProto]:
    """Make a model that answers what it is asked: `identity_model(onnx_code, shape, inputs=1)`."""
    return make_identity_model


def make_identity_model(
    onnx_code: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ("batch", 3), inputs: int = 1
) -> onnx.ModelProto:
    names = [(f"INPUT{number}", f"OUTPUT{number}") for number in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("Identity", [source], [target]) for source, target in names],
        "identity",
        [helper.make_tensor_value_info(source, onnx_code, shape) for source, _ in names],
        [helper.make_tensor_value_info(target, onnx_code, shape) for _, target in names],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
