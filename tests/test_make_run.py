"""The README's one command: build the example, serve it, and get the answers that the evidence promises."""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray

from enginehouse.evidence import Evidence, read_evidence
from tests.conftest import DIGITS, ROOT

Array = NDArray[Any]
Ask = Callable[[Array], Array]
MODELS = ("digits", "digits_mlp", "digits_lstm")


@dataclass
class MadeService:
    """`make run` in a repository of its own, on free ports."""

    repository: Path
    output: str
    http_port: int
    grpc_port: int
    metrics_port: int

    def evidence(self, model: str) -> Evidence:
        evidence = read_evidence(self.repository / model / "1")
        assert evidence is not None
        return evidence


@contextmanager
def make_run(repository: Path) -> Iterator[MadeService]:
    ports = {f"ENGINEHOUSE_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
    with subprocess.Popen(
        ["make", "run", f"REPOSITORY={repository}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ports},
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("  metrics "):
                    break
            output = "".join(lines)
            found = dict(re.findall(r"^  (HTTP|gRPC|metrics) .*127\.0\.0\.1:(\d+)", output, re.MULTILINE))
            assert len(found) == 3, output
            yield MadeService(repository, output, int(found["HTTP"]), int(found["gRPC"]), int(found["metrics"]))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeService]:
    with make_run(tmp_path_factory.mktemp("made")) as service:
        yield service


def over_http(service: MadeService, model: str) -> Ask:
    def ask(rows: Array) -> Array:
        with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
            tensor = triton_http.InferInput("pixels", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows)
            answer: Array = client.infer(model, [tensor]).as_numpy("logits")
            return answer

    return ask


def over_grpc(service: MadeService, model: str) -> Ask:
    def ask(rows: Array) -> Array:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
            tensor = triton_grpc.InferInput("pixels", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows)
            answer: Array = client.infer(model, [tensor]).as_numpy("logits")
            return answer

    return ask


def one_by_one(ask: Ask, rows: Array) -> Array:
    return np.concatenate([ask(row[None]) for row in rows])


def in_parallel(ask: Ask, rows: Array) -> Array:
    with ThreadPoolExecutor(16) as clients:
        return np.concatenate(list(clients.map(lambda row: ask(row[None]), rows)))


@pytest.mark.parametrize("model", MODELS)
def test_every_test_digit_is_answered_as_the_evidence_promises(
    made: MadeService, digits_data: dict[str, Array], model: str
) -> None:
    rows, labels = digits_data["test/pixels"], digits_data["test/label"]
    promised = made.evidence(model).test
    assert promised is not None
    answers = [run(ask(made, model), rows) for run in (one_by_one, in_parallel) for ask in (over_http, over_grpc)]
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3, atol=1e-3)
        accuracy = float((answer.argmax(axis=1) == labels).mean())
        assert accuracy == pytest.approx(promised.chosen, abs=1e-9)
        assert accuracy >= (0.975 if model == "digits" else 0.95)


def test_batches_form_under_parallel_load(made: MadeService, digits_data: dict[str, Array]) -> None:
    in_parallel(over_http(made, "digits"), digits_data["test/pixels"])
    text = urllib.request.urlopen(f"http://127.0.0.1:{made.metrics_port}/metrics").read().decode()
    buckets = dict(re.findall(r'enginehouse_batch_rows_bucket{model="digits",version="1",le="([^"]+)"} (\d+)', text))
    assert int(buckets["+Inf"]) > int(buckets["1"])


def test_the_printed_curl_works(made: MadeService) -> None:
    found = re.search(r"curl -s http://127\.0\.0\.1:0(\S+) -d @(\S+)", made.output)
    assert found is not None, made.output
    command = ["curl", "-s", f"http://127.0.0.1:{made.http_port}{found.group(1)}", "-d", f"@{found.group(2)}"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert int(np.argmax(json.loads(answer)["outputs"][0]["data"])) == 7
    assert (ROOT / found.group(2)) == DIGITS / "request.json"


def test_a_second_run_builds_nothing(made: MadeService) -> None:
    assert "optimizer build" in made.output
    with make_run(made.repository) as again:
        assert "optimizer build" not in again.output
        assert "is ready after" in again.output
    assert sorted(path.name for path in (made.repository / "digits").iterdir()) == ["1", "config.pbtxt"]
