"""The load test runs against a real server; in a process of its own, because gevent patches the standard library."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
KINDS = {"json", "binary", "grpc"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    version = repository / "digits" / "1"
    version.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "digits" / "digits.onnx", version / "model.onnx")
    return repository


@pytest.fixture(scope="module")
def running(start_service: Callable[..., AbstractContextManager[Any]], digits_repository: Path) -> Any:
    with start_service(digits_repository) as service:
        yield service


@pytest.fixture
def locust(running: Any, tmp_path: Path) -> Run:
    """Run the load test without its web page; the statistics land in `tmp_path`."""

    def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--headless"]
        common = ["--host", running.url, "--grpc-host", f"127.0.0.1:{running.grpc_port}", "--only-summary"]
        return subprocess.run(
            [*command, *common, "--json-file", str(tmp_path / "run"), *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def statistics(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "run.json").read_text())}


def test_every_kind_of_user_asks_and_none_fails(locust: Run, tmp_path: Path) -> None:
    done = locust("--users", "6", "--spawn-rate", "6", "--run-time", "3s", "--rate", "20", "--rows", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = statistics(tmp_path)
    assert set(rows) == KINDS
    for kind in KINDS:
        assert rows[kind]["num_requests"] > 0, kind
        assert rows[kind]["num_failures"] == 0, done.stdout


def test_a_refused_request_is_a_failure_of_every_kind(locust: Run, tmp_path: Path) -> None:
    done = locust("--users", "3", "--spawn-rate", "3", "--run-time", "1s", LOADTEST_MODEL="nobody", LOADTEST_RATE="5")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = statistics(tmp_path)
    for kind in KINDS:
        assert rows[kind]["num_failures"] == rows[kind]["num_requests"] > 0, kind


def test_an_answer_of_the_wrong_shape_is_told_from_a_right_one() -> None:
    checks = """
import numpy as np
from loadtests import locustfile
digits = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
taken = [next(rows).ravel().tolist() for rows in [locustfile.batches(digits, 2)] for _ in range(3)]
assert taken == [[0, 1], [2, 0], [1, 2]], taken
locustfile.check_logits(np.zeros((3, 10)), digits)
for wrong in (np.zeros((2, 10)), np.zeros((3, 9)), np.full((3, 10), np.nan)):
    try:
        locustfile.check_logits(wrong, digits)
    except locustfile.WrongAnswer:
        continue
    raise SystemExit(f"taken for an answer: {wrong}")
"""
    done = subprocess.run([sys.executable, "-c", checks], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
