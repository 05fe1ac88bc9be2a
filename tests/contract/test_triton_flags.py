"""A server started the way others start Triton: the same words do the same, or are named."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import ROOT, StartService, make_identity_model
from tests.contract.conftest import save_model

KSERVE = ["--allow-http=true", "--allow-grpc=true", "--strict-readiness=false", "--log-verbose=1"]
EMULATED = ["--http-thread-count=8", "--pinned-memory-pool-byte-size=268435456", "--backend-directory", "/opt/backends"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    identity = make_identity_model(onnx.TensorProto.FLOAT)
    save_model(tmp_path / "models", "bare", identity)
    save_model(tmp_path / "models", "tuned", identity, TUNED)
    return tmp_path / "models"


TUNED = """
max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_FP32 dims: 3 }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: 3 }
optimization { graph { level: 1 } eager_batching: true
  execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
parameters { key: "inter_op_thread_count" value { string_value: "2" } }
parameters { key: "execution_mode" value { string_value: "1" } }
"""


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def infer(url: str) -> Any:
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    request = urllib.request.Request(f"{url}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["outputs"][0]["data"]


def test_flags_of_triton_start_the_server_and_say_what_they_do_here(
    start_service: StartService, repository: Path
) -> None:
    sizes = ["--backend-config=default-max-batch-size=7", "--backend-config", "openvino,default-max-batch-size=3"]
    with start_service(repository, *KSERVE, *EMULATED, *sizes) as service:
        config = get(f"{service.url}/v2/models/bare/config")
        assert config["max_batch_size"] == 7
        assert config["dynamic_batching"]["preferred_batch_size"] == [7]
        assert infer(f"{service.url}/v2/models/tuned") == [1, 2, 3]
        for flag in ("http-thread-count", "pinned-memory-pool-byte-size", "backend-directory"):
            assert f"--{flag} is emulated: " in service.output


def test_the_arguments_of_kserve_s_runtime_for_triton_start_it(repository: Path) -> None:
    ports = ["--grpc-port=0", "--http-port=0", "--metrics-port", "0"]
    words = ["tritonserver", f"--model-store={repository}", *ports, "--allow-grpc=true", "--allow-http=true"]
    command = [sys.executable, "-m", "service", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            first = next(line for line in process.stdout if "ready" in line)
            url = next(line for line in process.stdout if "HTTP" in line).split()[1]
            assert "is ready" in first
            assert infer(f"{url}/v2/models/bare") == [1, 2, 3]
        finally:
            process.terminate()


def test_a_strict_server_loads_only_what_is_described(start_service: StartService, repository: Path) -> None:
    with start_service(repository, "--disable-auto-complete-config") as service:
        rows = {row["name"]: row for row in index(service.url)}
        assert rows["tuned"]["state"] == "READY"
        assert rows["bare"]["state"] == "UNAVAILABLE"
        assert "must specify input and output" in rows["bare"]["reason"]


def index(url: str) -> Any:
    request = urllib.request.Request(f"{url}/v2/repository/index", b"{}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_server_that_is_to_end_with_its_models_does(repository: Path) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    command = [sys.executable, "-m", "service", "--model-store", str(repository), *ports, "--exit-on-error=true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: --exit-on-error: broken cannot serve; the log says why." in done.stderr
    assert "model 'broken'" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--model-store={}", "--allow-http=false"], 2, "--allow-http is a flag of Triton's that is refused here"),
        (["--model-store={}", "--backend-config=tensorflow,version=2"], 2, "--backend-config: "),
        (["lint", "{}"], 0, "2 of 2 models can be served."),
    ],
)
def test_the_program_ends_with_one_word_of_why(repository: Path, words: list[str], status: int, text: str) -> None:
    command = [sys.executable, "-m", "service", *(word.format(repository) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, text in done.stdout + done.stderr) == (status, True), done.stdout + done.stderr
