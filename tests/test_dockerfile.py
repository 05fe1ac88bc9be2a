"""What the Dockerfile promises, as far as that can be known without building it."""

import fnmatch
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = ("service-cpu", "service-gpu", "optimizer")
LOCK_OF_TARGET = {"service-cpu": "service.txt", "service-gpu": "service-gpu.txt", "optimizer": "run.txt"}
OPTIMIZER_LIBRARIES = {"onnx", "onnxscript", "onnx-ir", "onnxslim", "sympy"}


@dataclass(frozen=True)
class Stage:
    """One `FROM … AS …` with its instructions, in order."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def values(self, keyword: str) -> list[str]:
        return [value for found, value in self.instructions if found == keyword]


def read_stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    stages: dict[str, Stage] = {}
    for keyword, value in lines:
        if keyword == "FROM":
            base, _, name = value.split()
            stages[name] = Stage(name, base, ())
        else:
            stages[name] = Stage(name, stages[name].base, (*stages[name].instructions, (keyword, value)))
    return stages


STAGES = read_stages()


def with_bases(name: str) -> list[Stage]:
    """A stage and all that it stands on, the lowest first."""
    stage = STAGES[name]
    return [*with_bases(stage.base), stage] if stage.base in STAGES else [stage]


def last(target: str, keyword: str) -> str:
    """What holds in the finished image: the instruction given last."""
    return [value for stage in with_bases(target) for value in stage.values(keyword)][-1]


def environment_of(target: str) -> dict[str, str]:
    pairs = [pair for stage in with_bases(target) for value in stage.values("ENV") for pair in value.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def copied(stage: Stage) -> list[tuple[str, str]]:
    """`(stage or "", source)` of every COPY."""
    found = []
    for value in stage.values("COPY"):
        words = value.split()
        origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
        found += [(origin, source) for source in words[:-1]]
    return found


def stages_of(target: str) -> list[Stage]:
    """Everything that a target is made from, through `FROM` and `COPY --from`."""
    found = with_bases(target)
    origins = [origin for stage in found for origin, _ in copied(stage) if origin]
    return found + [stage for origin in origins for stage in stages_of(origin)]


def locked_packages(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", (ROOT / "locks" / lock).read_text(), re.MULTILINE))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_ends_without_root_and_by_number(target: str) -> None:
    user, group = last(target, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_installs_only_from_its_lock_with_hashes(target: str) -> None:
    commands = " && ".join(value for stage in stages_of(target) for value in stage.values("RUN"))
    installs = re.findall(r"pip install ([^&]*)", commands)
    assert installs[0].strip() == f"--require-hashes -r locks/{LOCK_OF_TARGET[target]}"
    assert [line.strip() for line in installs[1:]] == ["--no-deps --no-build-isolation ."]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_knows_a_model_repository_that_its_user_may_write(target: str) -> None:
    assert last(target, "VOLUME") == "/models"
    user = last(target, "USER").split(":")[0]
    assert any(
        f"--owner={user}" in run and "/models" in run for stage in with_bases(target) for run in stage.values("RUN")
    )


@pytest.mark.parametrize("target", ["service-cpu", "service-gpu"])
def test_a_service_holds_nothing_of_the_optimizer(target: str) -> None:
    assert not OPTIMIZER_LIBRARIES & locked_packages(LOCK_OF_TARGET[target])
    assert "optimizer" not in [source for stage in stages_of(target) for _, source in copied(stage)]


def test_the_optimizer_has_its_libraries() -> None:
    assert locked_packages("run.txt") >= OPTIMIZER_LIBRARIES


def test_each_image_brings_exactly_one_onnxruntime() -> None:
    engines = {"onnxruntime", "onnxruntime-gpu"}
    found = {target: locked_packages(lock) & engines for target, lock in LOCK_OF_TARGET.items()}
    assert found == {"service-cpu": {"onnxruntime"}, "service-gpu": {"onnxruntime-gpu"}, "optimizer": {"onnxruntime"}}


def test_the_gpu_image_finds_the_cuda_that_it_installs() -> None:
    assert locked_packages("service-gpu.txt") >= {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"}
    paths = environment_of("service-gpu")["LD_LIBRARY_PATH"].split(":")
    assert [path.partition("/site-packages/")[2] for path in paths] == ["nvidia/cu13/lib", "nvidia/cudnn/lib"]


def test_every_copied_path_exists_and_reaches_the_builder() -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = {source for stage in STAGES.values() for origin, source in copied(stage) if not origin}
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source.split("/")[0], name) for name in allowed), source


def test_every_stage_that_is_copied_from_exists() -> None:
    origins = {origin for stage in STAGES.values() for origin, _ in copied(stage) if origin}
    assert origins <= set(STAGES)


@pytest.mark.parametrize("target", ["service-cpu", "service-gpu"])
def test_a_service_listens_on_all_addresses_at_the_exposed_ports(target: str) -> None:
    environment = environment_of(target)
    kinds = ("HTTP", "GRPC", "METRICS")
    assert {environment[f"ENGINEHOUSE_{kind}_ADDRESS"] for kind in kinds} == {"0.0.0.0"}
    assert [environment[f"ENGINEHOUSE_{kind}_PORT"] for kind in kinds] == last(target, "EXPOSE").split()
    assert json.loads(last(target, "ENTRYPOINT")) == ["python", "-m", "service"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_engine_reports_to_its_maker(target: str) -> None:
    assert environment_of(target)["ORT_DISABLE_TELEMETRY"] == "1"


def healthcheck(port: int) -> int:
    """Run the command of HEALTHCHECK as a container would; its exit code."""
    command = json.loads(last("service-cpu", "HEALTHCHECK").partition(" CMD ")[2])
    assert command[0] == "python"
    environment = {**os.environ, "ENGINEHOUSE_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, *command[1:]], env=environment, stderr=subprocess.DEVNULL).returncode


def test_health_is_told_by_the_exit_code(
    start_service: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> None:
    with start_service(tmp_path) as service:
        assert healthcheck(service.http_port) == 0
    assert healthcheck(service.http_port) != 0


def test_a_server_that_is_not_ready_is_not_healthy(
    start_service: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    with start_service(tmp_path) as service:
        assert healthcheck(service.http_port) != 0


def test_nothing_that_listens_is_not_healthy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert healthcheck(free.getsockname()[1]) != 0
