"""Statistics as `perf_analyzer` polls them: the difference of two snapshots adds up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from tests.conftest import RunningService, StartService
from tests.contract.triton_repository import write_others, write_seven

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


def snapshot(client: httpclient.InferenceServerClient, model: str = MODEL) -> dict[str, Any]:
    (found,) = client.get_inference_statistics(model)["model_stats"]
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


def test_the_steps_of_an_ensemble_are_counted_beside_it(start_service: StartService, tmp_path: Path) -> None:
    """What is printed below an ensemble: each of its models ran for each request, within the ensemble's own time."""
    write_seven(tmp_path)
    write_others(tmp_path)
    row = np.ones((1, 16), np.int32)
    inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    for tensor in inputs:
        tensor.set_data_from_numpy(row)
    with (
        start_service(tmp_path) as running,
        httpclient.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        for _ in range(REQUESTS):
            client.infer("simple_ensemble", inputs)
        whole, step = (snapshot(client, name)["inference_stats"] for name in ("simple_ensemble", "simple"))
        executions = snapshot(client, "simple")["execution_count"]
    assert (whole["success"]["count"], step["success"]["count"]) == (REQUESTS, 2 * REQUESTS)
    assert executions <= 2 * REQUESTS
    assert 0 < sum(step[part]["ns"] for part in PARTS) <= step["success"]["ns"] <= whole["success"]["ns"]
