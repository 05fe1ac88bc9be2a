"""Malformed requests: always 400 with a reason, the connection still usable, the next request fine."""

import http.client
import json
import struct
from collections.abc import Iterator

import pytest

from tests.conftest import RunningService

GOOD = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}


def changed(**fields: object) -> bytes:
    return json.dumps({"inputs": [{**GOOD["inputs"][0], **fields}]}).encode()


def without(field: str) -> bytes:
    return json.dumps({"inputs": [{k: v for k, v in GOOD["inputs"][0].items() if k != field}]}).encode()


def binary(size: int, tail: bytes, header_length: int | None = None) -> tuple[bytes, dict[str, str]]:
    header = json.loads(without("data"))
    header["inputs"][0]["parameters"] = {"binary_data_size": size}
    text = json.dumps(header).encode()
    length = len(text) if header_length is None else header_length
    return text + tail, {"Inference-Header-Content-Length": str(length)}


ROW = struct.pack("<3f", 1, 2, 3)
CASES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "not json": (b"pixels please", {}, "failed to parse the request JSON"),
    "cut json": (changed()[:-5], {}, "failed to parse the request JSON"),
    "not utf-8": (b'{"inputs": "\xff"}', {}, "failed to parse the request JSON"),
    "a list": (b"[]", {}, "an object is expected"),
    "no inputs": (b"{}", {}, "'inputs' must be a list"),
    "no body": (b"", {}, "failed to parse the request JSON"),
    "deep nesting": (b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", {}, ""),
    "deep data": (changed(data=json.loads("[" * 500 + "1" + "]" * 500)), {}, "1 elements"),
    "wrong name": (changed(name="nobody"), {}, "unexpected inference input 'nobody'"),
    "no name": (without("name"), {}, "a string is expected"),
    "missing input": (b'{"inputs": []}', {}, "expected 1 inputs but got 0"),
    "input twice": (json.dumps({"inputs": GOOD["inputs"] * 2}).encode(), {}, "expected 1 inputs but got 2"),
    "wrong type": (changed(datatype="INT32"), {}, "data-type is 'INT32'"),
    "unknown type": (changed(datatype="FLOAT"), {}, "unknown datatype 'FLOAT'"),
    "type of wrong type": (changed(datatype=7), {}, "unknown datatype 7"),
    "wrong shape": (changed(shape=[1, 4], data=[1, 2, 3, 4]), {}, "unexpected shape for input 'INPUT0'"),
    "wrong rank": (changed(shape=[3]), {}, "unexpected shape for input 'INPUT0'"),
    "negative shape": (changed(shape=[-1, 3]), {}, "a list of sizes from 0"),
    "fraction in shape": (changed(shape=[1.5, 2]), {}, "a list of sizes from 0"),
    "huge shape": (changed(shape=[2**31 - 1, 2**31 - 1, 2**31 - 1]), {}, "3 elements"),
    "shape beyond numbers": (changed(shape=[2**80, 3]), {}, ""),
    "no shape": (without("shape"), {}, "a list of sizes from 0"),
    "no rows": (changed(shape=[0, 3], data=[]), {}, "batch-size is 0"),
    "too many rows": (changed(shape=[5, 3], data=[0] * 15), {}, "batch-size is 5, must be 1 to 4"),
    "too little data": (changed(data=[1, 2]), {}, "has 2 elements"),
    "too much data": (changed(data=[1, 2, 3, 4]), {}, "has 4 elements"),
    "text for numbers": (changed(data=["1", "2", "3"]), {}, "must be numbers, found str"),
    "nothing for numbers": (changed(data=[1, None, 3]), {}, "must be numbers, found NoneType"),
    "truth for numbers": (changed(data=[True, False, True]), {}, "must be numbers, found bool"),
    "data and size": (changed(parameters={"binary_data_size": 12}), {}, "either 'data' or"),
    "unknown region": (
        json.dumps(
            {
                "inputs": [
                    {k: v for k, v in GOOD["inputs"][0].items() if k != "data"}
                    | {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 12}}
                ]
            }
        ).encode(),
        {},
        "shared memory region",
    ),
    "classes in words": (
        json.dumps({**GOOD, "outputs": [{"name": "OUTPUT0", "parameters": {"classification": "3"}}]}).encode(),
        {},
        "a number of classes is expected",
    ),
    "not gzip": (changed(), {"Content-Encoding": "gzip"}, "is not gzip"),
    "not zlib": (changed(), {"Content-Encoding": "deflate"}, "is not deflate"),
    "no time at all": (changed(), {"X-Request-Timeout-Ms": "0"}, "above 0 is expected"),
    "time in words": (changed(), {"X-Request-Timeout-Ms": "soon"}, "above 0 is expected"),
    "raw body of another size": (ROW[:8], {"Inference-Header-Content-Length": "0"}, "expected 12 bytes"),
    "neither data nor size": (without("data"), {}, "either 'data' or"),
    "parameters of wrong type": (changed(parameters=[1]), {}, "must be an object"),
    "reserved parameter": (
        json.dumps({**GOOD, "parameters": {"triton_x": 1}}).encode(),
        {},
        "reserved",
    ),
    "unknown output": (json.dumps({**GOOD, "outputs": [{"name": "x"}]}).encode(), {}, "unexpected inference output"),
    "output twice": (json.dumps({**GOOD, "outputs": [{"name": "OUTPUT0"}] * 2}).encode(), {}, "more than once"),
    "short tail": (*binary(12, ROW[:8]), "8 bytes are left"),
    "long tail": (*binary(12, ROW + b"more"), "unexpected additional input data for model: 4 bytes"),
    "wrong tail size": (*binary(8, ROW[:8]), "expected 12 bytes"),
    "negative tail size": (*binary(-1, b""), "a byte count is expected"),
    "header longer than body": (*binary(12, ROW, 10**6), "cannot be longer than the body"),
    "header length in words": (changed(), {"Inference-Header-Content-Length": "long"}, "a number of bytes"),
    "header length below nothing": (changed(), {"Inference-Header-Content-Length": "-3"}, "a number of bytes"),
    "oversized body": (b" " * 1_500_000 + changed(), {}, "--http-max-input-size"),
    "timeout in words": (json.dumps({**GOOD, "parameters": {"timeout": "soon"}}).encode(), {}, "'timeout'"),
}


@pytest.fixture(scope="module")
def connection(service: RunningService) -> Iterator[http.client.HTTPConnection]:
    opened = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    opened.connect()
    yield opened
    opened.close()


@pytest.mark.parametrize("case", CASES)
def test_malformed_is_400_and_the_connection_lives(connection: http.client.HTTPConnection, case: str) -> None:
    body, headers, message = CASES[case]
    socket = connection.sock
    connection.request("POST", "/v2/models/identity_fp32/infer", body, headers)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    assert (answer.status, list(found)) == (400, ["error"]), found
    assert message in found["error"]
    connection.request("POST", "/v2/models/identity_fp32/infer", json.dumps(GOOD).encode())
    answer = connection.getresponse()
    assert json.loads(answer.read())["outputs"][0]["data"] == [1, 2, 3]
    assert answer.status == 200
    assert connection.sock is socket


def test_bytes_that_are_not_text_are_refused_alone(service: RunningService) -> None:
    header = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 3], "parameters": {"binary_data_size": 15}}
    text = json.dumps({"inputs": [header]}).encode()
    tail = b"\x01\x00\x00\x00\xff" + b"\x01\x00\x00\x00a" * 2
    opened = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    length = {"Inference-Header-Content-Length": str(len(text))}
    opened.request("POST", "/v2/models/identity_bytes/infer", text + tail, length)
    answer = opened.getresponse()
    assert answer.status == 400
    assert "is not UTF-8" in json.loads(answer.read())["error"]
    opened.close()


def test_an_encoding_that_is_not_there_answers_501_and_names_those_that_are(service: RunningService) -> None:
    opened = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    for path in ("/v2/models/identity_fp32/infer", "/v2/repository/index"):
        opened.request("POST", path, changed(), {"Content-Encoding": "br"})
        answer = opened.getresponse()
        assert "'br' is not supported" in json.loads(answer.read())["error"]
        assert (answer.status, answer.getheader("Accept-Encoding")) == (501, "gzip, deflate")
    opened.close()
