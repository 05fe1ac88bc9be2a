"""SIGTERM while peers of every kind keep their connections: nothing hangs longer than the limit that was set."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from enginehouse.proto.grpc_service_pb2 import ModelInferRequest
from tests.conftest import StartService, make_identity_model
from tests.contract.conftest import save_model
from tests.contract.test_shutdown import BODY, make_slow_model, wait_until_running

LIMIT_SECONDS = 3
POST = b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: here\r\n"
SLOW = POST % b"slow" + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def large_request() -> bytes:
    """For an answer that no buffer of a kernel takes."""
    data = np.zeros((1, 5_000_000), np.float32).tobytes()
    field = {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": [1, 5_000_000],
        "parameters": {"binary_data_size": len(data)},
    }
    output = {"name": "OUTPUT0", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [field], "outputs": [output]}).encode()
    lengths = (len(header), len(header) + len(data))
    head = POST % b"echo" + b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % lengths
    return head + header + data


PEERS = {
    "says nothing": b"",
    "half a head": b"POST /v2/mod",
    "half a body": SLOW[:-9],
    "half a body for the application": SLOW.replace(b"Host: here", b"Accept-Encoding: gzip;q=0")[:-9],
    "one chunk": POST % b"slow" + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    "waits to be asked": POST % b"slow" + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    "nobody reads": large_request(),
    "nobody reads, and more is asked": large_request() + SLOW * 2,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ending")
    save_model(folder, "slow", make_slow_model())
    save_model(folder, "echo", make_identity_model(shape=("batch", "length")))
    return folder


def test_no_peer_keeps_the_server_from_ending(start_service: StartService, repository: Path) -> None:
    with start_service(repository, "--exit-timeout-secs", str(LIMIT_SECONDS)) as service, ExitStack() as open_peers:
        for sent in PEERS.values():
            peer = open_peers.enter_context(socket.create_connection(("127.0.0.1", service.http_port), timeout=20))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.sendall(sent)
        silent = open_peers.enter_context(socket.create_connection(("127.0.0.1", service.grpc_port), timeout=20))
        silent.sendall(b"PRI * HTTP/2.0\r\n")
        channel = open_peers.enter_context(grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}"))
        unread = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(large_messages())
        half_closed = open_peers.enter_context(socket.create_connection(("127.0.0.1", service.http_port), timeout=20))
        half_closed.sendall(SLOW)
        half_closed.shutdown(socket.SHUT_WR)
        wait_until_running(service, 0)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < LIMIT_SECONDS + 4
        answer = b"".join(iter(lambda: half_closed.recv(1 << 16), b""))
        assert answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(b"HTTP/1.1 200 ")
        unread.cancel()
    assert "connections were not done within 3 seconds" in service.output
    assert "Traceback" not in service.output
    assert "ERROR" not in service.output


def large_messages() -> Iterator[bytes]:
    """Requests that never end, whose answers nobody reads."""
    request = ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4_000_000)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=(1, 1_000_000))
    for _ in range(5):
        yield request.SerializeToString()
    threading.Event().wait(60)
