"""Many callers at the same moment, of a model with an objective: each is answered once, and counted once."""

import json
import socket
import urllib.request
from pathlib import Path

import pytest

from benchmarks.load import http_request
from enginehouse.dtype import Array
from tests.conftest import DIGITS, RunningService, StartService

CALLERS = 400
CONFIG = """
max_batch_size: 32
dynamic_batching { }
parameters { key: "slo_ms" value { string_value: "%s" } }
"""


def answers(service: RunningService, request: bytes) -> list[tuple[int, bytes]]:
    """What so many callers hear who all ask before any of them listens."""
    callers = [socket.create_connection(("127.0.0.1", service.http_port)) for _ in range(CALLERS)]
    try:
        for caller in callers:
            caller.sendall(request)
        return [answer(caller) for caller in callers]
    finally:
        for caller in callers:
            caller.close()


def answer(caller: socket.socket) -> tuple[int, bytes]:
    caller.settimeout(20)
    with caller.makefile("rb") as lines:
        status = int(lines.readline().split()[1])
        length = 0
        while (line := lines.readline()) != b"\r\n":
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        return status, lines.read(length)


@pytest.mark.parametrize(("slo_ms", "is_refused"), [("4", True), ("60000", False)])
def test_a_crowd_is_served_or_refused_unread_and_nobody_is_forgotten(
    start_service: StartService, tmp_path: Path, digits_data: dict[str, Array], slo_ms: str, is_refused: bool
) -> None:
    version = tmp_path / "digits" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes((DIGITS / "digits.onnx").read_bytes())
    (tmp_path / "digits" / "config.pbtxt").write_text(CONFIG % slo_ms)
    with start_service(tmp_path) as service:
        heard = answers(service, http_request("digits", "pixels", digits_data["test/pixels"][:1]))
        with urllib.request.urlopen(f"{service.url}/v2/models/digits/stats") as reply:
            (counted,) = json.load(reply)["model_stats"]
    assert {status for status, _ in heard} <= {200, 503}
    unread = [body for _, body in heard if b"more requests come than can be answered in time" in body]
    assert bool(unread) == is_refused
    assert counted["inference_stats"]["success"]["count"] == sum(status == 200 for status, _ in heard)
    assert counted["inference_stats"]["fail"]["count"] == sum(status == 503 for status, _ in heard)
