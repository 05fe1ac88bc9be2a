"""Inference is answered in the protocol or by the application; nobody can tell which, but by how fast it is."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningService

PATIENT = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# A client that says this wants the same answer, but the protocol leaves it to the application to find out.
BY_THE_APPLICATION = "Accept-Encoding: gzip;q=0"

INPUTS = {"simple": (("INPUT0", 16), ("INPUT1", 16)), "versions": (("INPUT0", 3),), "nobody": (("x", 1),)}
ADDRESSES = ["simple", "sim%70le", "simple/versions/1", "versions", "versions/versions/3", "versions/versions/03"]
ADDRESSES += ["versions/versions/2", "versions/versions/%33", "nobody", "a%2Fb", "simple%2Fversions%2F1", "%00", "%ff"]
ODD: list[Any] = [None, True, -1, 3.5, 2**63, "x", "1", "", [], [[1], [2]], {}, {"a": 1}, ["x"], "é\x00", 10**30]
WANTED: list[dict[str, Any]] = [
    {"name": "OUTPUT0"},
    {"name": "OUTPUT0", "parameters": {"binary_data": True}},
    {"name": "nothing"},
]
PARAMETERS: list[dict[str, Any]] = [
    {"binary_data_output": True},
    {"priority": 1},
    {"timeout": -1},
    {"sequence_id": 1},
    {"mine": "own"},
]
LENGTHS = ["0", "1", "-1", "x", "", "999999", "9" * 30]
TIMEOUTS = ["60000", "0", "1e3", "", "0.000001", "999999999999", "12 34"]


@dataclass
class Sent:
    """A request, all but the header that says how to answer it."""

    address: str
    body: bytes
    headers: tuple[str, ...]

    def __bytes__(self) -> bytes:
        return self.with_headers()

    def with_headers(self, *more: str) -> bytes:
        head = [f"POST /v2/models/{self.address}/infer HTTP/1.1", "Host: here", f"Content-Length: {len(self.body)}"]
        return "\r\n".join((*head, *self.headers, *more, "", "")).encode() + self.body


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every spot of a JSON value where something else could stand."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Mostly something that can be answered, with up to two things wrong."""
    address = draw(st.sampled_from(ADDRESSES))
    name = "simple" if address.startswith("sim") else address.partition("/")[0]
    is_binary = draw(st.booleans())
    header: dict[str, Any] = {"inputs": [], "parameters": deepcopy(draw(st.sampled_from([{}, {}, *PARAMETERS])))}
    tail = b""
    for input_name, size in INPUTS.get(name, INPUTS["nobody"]):
        entry: dict[str, Any] = {"name": input_name, "shape": [1, size]}
        entry["datatype"] = "INT32" if name == "simple" else "FP32"
        if is_binary:
            entry["parameters"] = {"binary_data_size": 4 * size}
            tail += bytes(range(size)) * 4
        else:
            entry["data"] = list(range(size))
        header["inputs"].append(entry)
    header.update(draw(st.sampled_from([{}, {"id": "7"}, {"id": 7}, {"id": "é"}])))
    header.update(draw(st.sampled_from([{}, *({"outputs": [deepcopy(wanted)]} for wanted in WANTED)])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        holder, key = draw(st.sampled_from(list(places(header))))
        holder[key] = deepcopy(draw(st.sampled_from(ODD)))
    text = json.dumps(header).encode()
    headers = [f"Inference-Header-Content-Length: {len(text)}"] if is_binary else []
    if draw(st.integers(0, 9)) == 0:
        headers = [f"Inference-Header-Content-Length: {draw(st.sampled_from(LENGTHS))}"]
    if draw(st.integers(0, 4)) == 0:
        headers.append(f"X-Request-Timeout-Ms: {draw(st.sampled_from(TIMEOUTS))}")
    body = text + tail
    if draw(st.integers(0, 9)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    return Sent(address, body, tuple(headers))


def answer(peer: socket.socket, sent: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body, without what the time of day makes of them."""
    peer.sendall(sent)
    response = http.client.HTTPResponse(peer, method="POST")
    response.begin()
    body = re.sub(rb"after \d+ ms", b"after some ms", response.read())
    headers = [(name.lower(), re.sub(r"\d+\.\d+", "?", value)) for name, value in response.getheaders()]
    return response.status, sorted(header for header in headers if header[0] != "date"), body


@pytest.fixture(scope="module")
def peers(service: RunningService) -> Iterator[list[socket.socket]]:
    """Two connections, one for each way."""
    both = [socket.create_connection(("127.0.0.1", service.http_port), timeout=30) for _ in range(2)]
    yield both
    for one in both:
        one.close()


@PATIENT
@given(sent=requests())
def test_both_ways_answer_alike(peers: list[socket.socket], sent: Sent) -> None:
    direct = answer(peers[0], bytes(sent))
    assert direct == answer(peers[1], sent.with_headers(BY_THE_APPLICATION))
    assert direct[0] in (200, 400, 404, 503)


def test_requests_in_a_row_are_answered_in_order_whichever_way(service: RunningService) -> None:
    count = 300
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3]}
    line = b""
    for number in range(count):
        body = json.dumps({"id": str(number), "inputs": [{**entry, "data": [number] * 3}]}).encode()
        sent = Sent("versions" if number % 3 else f"nobody{number}", body, ())
        line += sent.with_headers(*[BY_THE_APPLICATION] * (number % 2))
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=30) as peer:
        peer.sendall(line + Sent("last", b"{}", ("Connection: close",)).with_headers())
        received = b"".join(iter(lambda: peer.recv(1 << 16), b""))
    told = re.findall(rb'"data":\[(\d+)\.0,|model: \'nobody(\d+)\'', received)
    assert [int(number or name) for number, name in told] == list(range(count))
    assert received.count(b"HTTP/1.1 ") == count + 1
