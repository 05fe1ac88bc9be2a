"""Priorities, timeouts, objectives and limits, as clients of a real server meet them."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import metrics, save_model

SIZE = 512


def make_slow_model(rounds: int = 8) -> onnx.ModelProto:
    """Some ten milliseconds of multiplications, and one row at a time."""
    weight = np.full((SIZE, SIZE), 1 / SIZE, np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["INPUT0"], ["number"], keepdims=0),
        helper.make_node("Add", ["weight", "number"], ["step0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"step{at}", "weight"], [f"step{at + 1}"]) for at in range(rounds)]
    nodes.append(helper.make_node("ReduceMean", [f"step{rounds}"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["INPUT0", "mean"], ["OUTPUT0"]))
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


ONE_ROW = "max_batch_size: 1 "
SLO = ONE_ROW + 'parameters { key: "slo_ms" value { string_value: "%s" } }'
LEVELS = (
    ONE_ROW
    + """dynamic_batching { priority_levels: 2 default_priority_level: 2
    priority_queue_policy { key: 2 value { allow_timeout_override: true max_queue_size: 64 } } }"""
)
RESOURCE = (
    ONE_ROW
    + "instance_group [ { kind: KIND_CPU rate_limiter { resources [ { name: 'R' global: true count: %d } ] } } ]"
)


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("scheduling")
    save_model(repository, "promised", make_slow_model(), SLO % "200")
    save_model(repository, "levels", make_slow_model(), LEVELS)
    for name, count in (("modest", 1), ("greedy", 2), ("impossible", 3)):
        save_model(repository, name, make_slow_model(), RESOURCE % count)
    flags = ("--strict-readiness", "false", "--rate-limit", "execution_count", "--rate-limit-resource", "R:2")
    with start_service(repository, *flags) as started:
        yield started


def inputs(client: Any) -> list[Any]:
    tensor = client.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    return [tensor]


def http_client(service: RunningService, concurrency: int = 1) -> Any:
    return triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}", concurrency=concurrency)


def ask_raw(service: RunningService, model: str, headers: dict[str, str] | None = None) -> tuple[int, Any, float]:
    """Status, headers and seconds of one request."""
    body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}).encode()
    request = urllib.request.Request(f"{service.url}/v2/models/{model}/infer", body, headers or {})
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, time.monotonic() - started
    except urllib.request.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, time.monotonic() - started


def wait_until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < end, "it never happened"


def pending(service: RunningService, model: str) -> int:
    pattern = rf'nv_inference_pending_request_count{{model="{model}",version="1"}} (\d+)'
    found = re.search(pattern, metrics(service))
    assert found is not None
    return int(found.group(1))


def test_what_cannot_be_in_time_is_refused_at_once_and_told_when_to_come_back(service: RunningService) -> None:
    for _ in range(12):
        assert ask_raw(service, "promised")[0] == 200
    with ThreadPoolExecutor(64) as crowd:
        answers = list(crowd.map(lambda _: ask_raw(service, "promised"), range(192)))
    answered = [seconds for status, _, seconds in answers if status == 200]
    refused = [(headers, seconds) for status, headers, seconds in answers if status == 503]
    assert len(answered) + len(refused) == 192
    assert answered
    assert refused
    assert all(int(headers["Retry-After"]) >= 1 for headers, _ in refused)
    failures = re.search(r'request_failure{model="promised",version="1",reason="REJECTED"} (\d+)', metrics(service))
    assert failures is not None
    assert int(failures.group(1)) == len(refused)


def test_grpc_calls_it_unavailable(service: RunningService) -> None:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
    try:
        client.infer("promised", inputs(triton_grpc))
        with pytest.raises(InferenceServerException) as caught:
            client.infer("promised", inputs(triton_grpc), timeout=1)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
    finally:
        client.close()


def test_a_high_priority_overtakes_those_that_wait(service: RunningService) -> None:
    done: list[str] = []
    lock = threading.Lock()

    def ask(name: str, priority: int) -> None:
        client = http_client(service)
        try:
            client.infer("levels", inputs(triton_http), priority=priority)
            with lock:
                done.append(name)
        finally:
            client.close()

    with ThreadPoolExecutor(32) as crowd:
        low = [crowd.submit(ask, "low", priority) for priority in [2, 0] * 12]
        wait_until(lambda: pending(service, "levels") >= 8)
        high = crowd.submit(ask, "high", 1)
        for future in [high, *low]:
            future.result()
    assert done[-1] == "low"
    # It waited for what ran and was at the door, not for the many before it in the line.
    assert len(done) - done.index("high") > 4


def test_a_timeout_is_kept_while_a_batch_runs(service: RunningService) -> None:
    with ThreadPoolExecutor(16) as crowd:
        others = [crowd.submit(ask_raw, service, "levels") for _ in range(16)]
        wait_until(lambda: pending(service, "levels") >= 4)
        client = http_client(service)
        try:
            with pytest.raises(InferenceServerException, match="timeout expired") as caught:
                client.infer("levels", inputs(triton_http), priority=2, timeout=1000)
            assert caught.value.status() == "503"
        finally:
            client.close()
        assert [future.result()[0] for future in others] == [200] * 16


@pytest.mark.parametrize(("name", "value"), [("priority", "high"), ("timeout", -1), ("sequence_start", 1)])
def test_a_reserved_parameter_that_means_nothing_is_refused(service: RunningService, name: str, value: Any) -> None:
    body = {
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}],
        "parameters": {name: value},
    }
    request = urllib.request.Request(f"{service.url}/v2/models/levels/infer", json.dumps(body).encode())
    with pytest.raises(urllib.request.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as refusal:
        assert refusal.code == 400
        assert f"parameter '{name}'" in json.load(refusal)["error"]


def test_models_that_share_a_resource_all_answer_and_one_that_could_never_run_is_not_loaded(
    service: RunningService,
) -> None:
    with ThreadPoolExecutor(16) as crowd:
        models = ["modest", "greedy"] * 8
        assert list(crowd.map(lambda model: ask_raw(service, model)[0], models)) == [200] * 16
    rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
    (row,) = [row for row in rows if row["name"] == "impossible"]
    assert row["state"] == "UNAVAILABLE"
    assert "'R' is limited to 2, and an instance needs 3" in row["reason"]
