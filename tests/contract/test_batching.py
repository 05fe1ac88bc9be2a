"""Dynamic batching, seen from outside: batches form under load, and an answer does not depend on its company."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray

from tests.conftest import DIGITS, RunningService, StartService

CONFIG = """
max_batch_size: 16
dynamic_batching {{ preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: {delay} {policy} }}
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
"""


def add_digits(repository: Path, name: str, delay: int = 0, policy: str = "", instances: int = 1) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes((DIGITS / "digits.onnx").read_bytes())
    text = CONFIG.format(delay=delay, policy=policy, instances=instances)
    (repository / name / "config.pbtxt").write_text(text)


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("batching")
    add_digits(repository, "plain")
    add_digits(repository, "patient", delay=20_000)
    add_digits(repository, "pair", instances=2)
    add_digits(repository, "impatient", delay=3_000_000, policy="default_queue_policy { max_queue_size: 1 }")
    expire = "default_queue_policy { default_timeout_microseconds: 50000 allow_timeout_override: true }"
    add_digits(repository, "expiring", delay=3_000_000, policy=expire)
    with start_service(repository) as running:
        yield running


def batch_counts(service: RunningService, model: str) -> dict[str, int]:
    """The batch-size histogram: how many batches had at most so many rows."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics").read().decode()
    pattern = rf'enginehouse_batch_rows_bucket{{model="{model}",version="1",le="([^"]+)"}} (\d+)'
    return {bound: int(count) for bound, count in re.findall(pattern, text)}


@pytest.mark.parametrize("model", ["plain", "patient", "pair"])
def test_parallel_rows_are_batched_and_answered_as_if_alone(
    service: RunningService, digits_data: dict[str, NDArray[np.generic]], model: str
) -> None:
    rows = digits_data["test/pixels"][:200]

    def alone(row: NDArray[np.generic]) -> NDArray[np.generic]:
        with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
            tensor = triton_http.InferInput("pixels", [1, 1, 8, 8], "FP32")
            tensor.set_data_from_numpy(row[None])
            answer: NDArray[np.generic] = client.infer(model, [tensor]).as_numpy("logits")
            return answer

    def through_grpc(row: NDArray[np.generic]) -> NDArray[np.generic]:
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
            tensor = triton_grpc.InferInput("pixels", [1, 1, 8, 8], "FP32")
            tensor.set_data_from_numpy(row[None])
            answer: NDArray[np.generic] = client.infer(model, [tensor]).as_numpy("logits")
            return answer

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(alone, rows)) + list(pool.map(through_grpc, rows[:50]))
    one_by_one = [alone(row) for row in rows[:50]]
    np.testing.assert_allclose(np.concatenate(together[:50]), np.concatenate(one_by_one), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(together[200:]), np.concatenate(one_by_one), rtol=1e-4, atol=1e-4)
    counts = batch_counts(service, model)
    assert counts["+Inf"] > counts["1"], f"no batch had more than one row: {counts}"


def post(service: RunningService, model: str, **parameters: int) -> tuple[int, dict[str, object], str | None]:
    body = json.loads((DIGITS / "request.json").read_text()) | {"parameters": parameters}
    request = urllib.request.Request(f"{service.url}/v2/models/{model}/infer", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer), None
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal), refusal.headers["Retry-After"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(service: RunningService) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(service, "impatient"), range(8)))
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(refused) == 7
    for _, body, retry_after in refused:
        assert "Exceeds maximum queue size" in str(body["error"])
        assert retry_after is not None
    assert [answer[0] for answer in answers].count(200) == 1


def test_a_request_that_waits_past_its_timeout_is_told(service: RunningService) -> None:
    for parameters in ({}, {"timeout": 20_000}):
        status, body, _ = post(service, "expiring", **parameters)
        assert status == 503
        assert "Request timeout expired" in str(body["error"])
