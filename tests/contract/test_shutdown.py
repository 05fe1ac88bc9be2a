"""SIGTERM: not ready, drain, exit 0, nothing lost."""

import http.client
import json
import signal
import threading
import time
from pathlib import Path

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model


def make_slow_model(size: int = 700, repeats: int = 40) -> onnx.ModelProto:
    """Some hundred milliseconds of matrix products, so that a request is surely in flight when the signal comes."""
    nodes = [helper.make_node("MatMul", [f"value{step}", "weight"], [f"value{step + 1}"]) for step in range(repeats)]
    nodes.insert(0, helper.make_node("MatMul", ["INPUT0", "spread"], ["value0"]))
    nodes.append(helper.make_node("ReduceSum", [f"value{repeats}"], ["OUTPUT0"], keepdims=1))
    weights = [
        helper.make_tensor("spread", TensorProto.FLOAT, [1, size], [0.0] * size),
        helper.make_tensor("weight", TensorProto.FLOAT, [size, size], [0.001] * (size * size)),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("INPUT0", TensorProto.FLOAT, [size, 1])],
        [helper.make_tensor_value_info("OUTPUT0", TensorProto.FLOAT, [1, 1])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


BODY = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [700, 1], "data": [1.0] * 700}]}).encode()


@pytest.fixture(scope="module")
def slow_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("slow")
    save_model(repository, "slow", make_slow_model())
    return repository


class Caller(threading.Thread):
    """One request on a connection of its own; remembers how it ended."""

    def __init__(self, service: RunningService) -> None:
        super().__init__()
        self.status: int | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=60)
        self._connection.connect()

    def run(self) -> None:
        self._connection.request("POST", "/v2/models/slow/infer", BODY)
        answer = self._connection.getresponse()
        answer.read()
        self.status = answer.status
        self._connection.close()


def wait_until_running(service: RunningService, count: int) -> None:
    """Until all callers are admitted: waiting in the queue, or already counted out of it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", service.metrics_port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        if f'nv_inference_pending_request_count{{model="slow",version="1"}} {count}' in text:
            return
    raise AssertionError(f"{count} requests were never waiting at once")


def test_requests_in_flight_are_answered_and_the_exit_is_clean(
    start_service: StartService, slow_repository: Path
) -> None:
    with start_service(slow_repository) as service:
        callers = [Caller(service) for _ in range(4)]
        for caller in callers:
            caller.start()
        wait_until_running(service, 3)
        assert service.stop() == 0
        for caller in callers:
            caller.join(60)
    assert [caller.status for caller in callers] == [200] * 4


def test_readiness_goes_first_and_serving_goes_on_through_the_drain_delay(
    start_service: StartService, slow_repository: Path
) -> None:
    with start_service(slow_repository, "--drain-delay-secs", "2") as service:
        with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            service.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=60)
            connection.request("GET", "/v2/health/ready")
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["ready"]) == (503, False)
            connection.request("POST", "/v2/models/slow/infer", BODY)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            connection.close()
        assert service.process.wait(60) == 0


def test_a_second_server_on_the_same_port_says_so(start_service: StartService, slow_repository: Path) -> None:
    with start_service(slow_repository) as first:
        for flag, port in (("--http-port", first.http_port), ("--grpc-port", first.grpc_port)):
            with pytest.raises(AssertionError), start_service(slow_repository, flag, str(port)) as second:
                _ = second.http_port
