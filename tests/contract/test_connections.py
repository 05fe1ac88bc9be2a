"""Connections as hostile, hasty and unlucky peers make them."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model
from tests.contract.test_shutdown import BODY, make_slow_model, wait_until_running


def raw(service: RunningService, *parts: bytes) -> bytes:
    """Send bytes, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=30) as peer:
        for part in parts:
            try:
                peer.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
        answer = b""
        try:
            while chunk := peer.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def check_error(answer: bytes, status: int) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"content-type: application/json" in head.lower()
    (message,) = json.loads(body).values()
    return str(message)


@pytest.mark.parametrize(
    "request_",
    [
        b"not http at all\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"POST /v2/models/simple/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/simple/infer HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    ],
)
def test_what_is_not_http_is_refused_in_json(service: RunningService, request_: bytes) -> None:
    assert "HTTP/1.1 is expected" in check_error(raw(service, request_), 400)


@pytest.mark.parametrize("one_header", [True, False])
def test_a_head_without_end_is_refused(service: RunningService, one_header: bool) -> None:
    start = b"GET /v2 HTTP/1.1\r\nHost: here\r\n"
    if one_header:
        parts = [start + b"X-Long: ", *[b"x" * 4096] * 100]
    else:
        parts = [start, *[b"X-Header: value\r\n" * 100] * 100]
    assert "65536 bytes" in check_error(raw(service, *parts), 431)


def test_a_whole_head_that_is_too_large_is_refused(service: RunningService) -> None:
    head = b"GET /v2 HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n"
    assert "65536 bytes" in check_error(raw(service, head), 431)


def test_a_header_length_of_many_digits_is_malformed(service: RunningService) -> None:
    digits = b"9" * 5000
    head = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nConnection: close\r\n"
    answer = raw(service, head + b"Inference-Header-Content-Length: " + digits + b"\r\n\r\n{}")
    assert "a number of bytes is expected" in check_error(answer, 400)


def test_a_client_that_asks_for_another_protocol_is_answered_in_this_one(service: RunningService) -> None:
    head = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=30) as peer:
        peer.sendall(head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_thousands_of_calls_at_once_are_answered_or_told_that_the_queue_is_full(service: RunningService) -> None:
    request = ModelInferRequest(model_name="identity_fp32", raw_input_contents=[bytes(12)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=(1, 3))
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        calls = [infer.future(request, timeout=60) for _ in range(3000)]
        codes = {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert grpc.StatusCode.OK in codes


@pytest.fixture(scope="module")
def slow_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("slow")
    save_model(repository, "slow", make_slow_model())
    return repository


def counter(service: RunningService, name: str, labels: str = "") -> int:
    text = urllib.request.urlopen(f"{service.url}/metrics").read().decode()
    found = re.search(rf'^{name}{{model="slow",version="1"{labels}}} (\d+)$', text, re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def test_a_caller_that_leaves_is_not_computed(start_service: StartService, slow_repository: Path) -> None:
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    with start_service(slow_repository) as service:
        peers = [socket.create_connection(("127.0.0.1", service.http_port)) for _ in range(5)]
        for peer in peers:
            peer.sendall(head + BODY)
        wait_until_running(service, 4)
        for peer in peers:
            peer.close()
        deadline = time.monotonic() + 30
        while counter(service, "nv_inference_request_failure", ',reason="CANCELED"') < 4:
            assert time.monotonic() < deadline, "the callers left, and their requests are still in line"
        assert counter(service, "nv_inference_pending_request_count") == 0
        assert counter(service, "nv_inference_exec_count") <= 1


class Client(threading.Thread):
    """Asks on one connection again and again, until it is told to come no more."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.answered = 0
        self.problem: Exception | None = None
        self.has_asked = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def run(self) -> None:
        try:
            while True:
                self._connection.request("GET", "/v2/models/slow")
                answer = self._connection.getresponse()
                answer.read()
                self.answered += 1
                self.has_asked.set()
                if answer.getheader("Connection") == "close":
                    return
        except Exception as problem:
            self.problem = problem
        finally:
            self.has_asked.set()
            self._connection.close()


def test_clients_that_keep_their_connections_lose_nothing_at_the_end(
    start_service: StartService, slow_repository: Path
) -> None:
    with start_service(slow_repository) as service:
        clients = [Client(service.http_port) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            assert client.has_asked.wait(30)
        assert service.stop() == 0
        for client in clients:
            client.join(30)
    assert [client.problem for client in clients] == [None] * 8
    assert all(client.answered for client in clients)


@pytest.mark.parametrize(("is_interrupted", "status"), [(False, 0), (True, 1)])
def test_a_load_that_hangs_does_not_keep_the_server_from_ending(
    start_service: StartService, tmp_path: Path, is_interrupted: bool, status: int
) -> None:
    save_model(tmp_path, "slow", make_slow_model())
    flags = ["--exit-timeout-secs", "0", "--model-control-mode", "explicit", "--load-model", "slow"]
    with start_service(tmp_path, *flags) as service:
        (tmp_path / "hangs" / "1").mkdir(parents=True)
        os.mkfifo(tmp_path / "hangs" / "1" / "model.onnx")
        load = threading.Thread(target=raw, args=(service, LOAD_HANGS))
        load.start()
        rows: list[dict[str, str]] = []
        deadline = time.monotonic() + 30
        while {"name": "hangs", "version": "1", "state": "LOADING"} not in rows:
            assert time.monotonic() < deadline, rows
            rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
        service.process.send_signal(signal.SIGTERM)
        if is_interrupted:
            while "stopping" not in service.output:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == status
        load.join(30)


LOAD_HANGS = b"POST /v2/repository/models/hangs/load HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
