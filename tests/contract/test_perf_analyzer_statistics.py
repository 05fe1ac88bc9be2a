"""Statistics as `perf_analyzer` polls them: the difference of two snapshots adds up."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from tests.conftest import RunningService

REQUESTS, ROWS = 40, 2
MODEL = "identity_fp64"
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def client(service: RunningService) -> Iterator[httpclient.InferenceServerClient]:
    with httpclient.InferenceServerClient(f"127.0.0.1:{service.http_port}", concurrency=8) as opened:
        yield opened


def given(dtype: str) -> httpclient.InferInput:
    tensor = httpclient.InferInput("INPUT0", [ROWS, 3], dtype)
    tensor.set_data_from_numpy(np.ones((ROWS, 3), np.float64 if dtype == "FP64" else np.float32))
    return tensor


def snapshot(client: httpclient.InferenceServerClient) -> dict[str, Any]:
    (found,) = client.get_inference_statistics(MODEL)["model_stats"]
    return dict(found)


def test_the_difference_of_two_snapshots_adds_up(client: httpclient.InferenceServerClient) -> None:
    extensions = client.get_server_metadata()["extensions"]
    assert "statistics" in extensions
    before = snapshot(client)
    for answer in [client.async_infer(MODEL, [given("FP64")]) for _ in range(REQUESTS)]:
        answer.get_result()
    with pytest.raises(httpclient.InferenceServerException):
        client.infer(MODEL, [given("FP32")])
    after = snapshot(client)

    def grown(part: str, field: str) -> int:
        return int(after["inference_stats"][part][field]) - int(before["inference_stats"][part][field])

    assert grown("success", "count") == REQUESTS
    assert grown("fail", "count") == 1
    assert after["inference_count"] - before["inference_count"] == REQUESTS * ROWS
    assert all(grown(part, "count") == REQUESTS for part in PARTS)
    assert 0 < sum(grown(part, "ns") for part in PARTS) <= grown("success", "ns")
    sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    for batch in before["batch_stats"]:
        sizes[batch["batch_size"]] -= batch["compute_infer"]["count"]
    executions = after["execution_count"] - before["execution_count"]
    assert sum(sizes.values()) == executions <= REQUESTS
    assert sum(size * count for size, count in sizes.items()) == REQUESTS * ROWS
    assert after["last_inference"] > before["last_inference"]


def test_both_transports_tell_the_same(client: httpclient.InferenceServerClient, service: RunningService) -> None:
    client.infer(MODEL, [given("FP64")])
    with grpcclient.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as other:
        (found,) = other.get_inference_statistics(MODEL).model_stats
    told = snapshot(client)
    assert found.inference_count == told["inference_count"]
    assert found.inference_stats.success.count == told["inference_stats"]["success"]["count"]
    assert found.inference_stats.queue.ns == told["inference_stats"]["queue"]["ns"]
