"""What the bytes of HTTP/1.x say, one way to inference and the other: the same verdict, and the one that was meant."""

import http.client
import json
import socket
from dataclasses import dataclass

import pytest

from tests.conftest import RunningService

BODY = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'
PATH = b"/v2/models/identity_fp32/infer"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
IN_CHUNKS = b"5\r\n%b\r\n%x;extension=1\r\n%b\r\n0\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:])
DIRECT, BY_THE_APPLICATION = b"X-Way: direct", b"Accept-Encoding: gzip;q=0"


@dataclass
class Case:
    """A request, the status of its answer, and whether the connection goes on behind it."""

    status: int
    goes_on: bool
    headers: tuple[bytes, ...] = (LENGTH,)
    body: bytes = BODY
    line: bytes = b"POST " + PATH + b" HTTP/1.1"
    end: bytes = b"\r\n"

    def sent(self, way: bytes) -> bytes:
        return self.end.join((self.line, b"Host: here", way, *self.headers, b"", self.body))


CASES = {
    "plain": Case(200, True),
    "header names in upper case": Case(200, True, (LENGTH.upper(),)),
    "header names in lower case": Case(200, True, (LENGTH.lower(),)),
    "no space behind the colon": Case(200, True, (LENGTH.replace(b" ", b""),)),
    "blanks around a value": Case(200, True, (b"Content-Length:\t %d \t" % len(BODY),)),
    "told to close": Case(200, False, (LENGTH, b"Connection: close")),
    "told to close, loudly": Case(200, False, (LENGTH, b"CONNECTION: CLOSE")),
    "told to keep": Case(200, True, (LENGTH, b"Connection: Keep-Alive")),
    "told to close among others": Case(200, False, (LENGTH, b"Connection: x-other, close")),
    "HTTP/1.0": Case(200, False, line=b"POST " + PATH + b" HTTP/1.0"),
    "HTTP/1.0 that would keep": Case(
        200, False, (LENGTH, b"Connection: keep-alive"), line=b"POST " + PATH + b" HTTP/1.0"
    ),
    "whole address": Case(200, True, line=b"POST http://elsewhere:80" + PATH + b" HTTP/1.1"),
    "whole address with a query": Case(200, True, line=b"POST http://elsewhere" + PATH + b"?a=b HTTP/1.1"),
    "a query": Case(200, True, line=b"POST " + PATH + b"?a=b&c HTTP/1.1"),
    "an empty line before": Case(200, True, line=b"\r\nPOST " + PATH + b" HTTP/1.1"),
    "in chunks": Case(200, True, (CHUNKED,), IN_CHUNKS + b"\r\n"),
    "in chunks, loudly": Case(200, True, (CHUNKED.upper(),), IN_CHUNKS + b"\r\n"),
    "in chunks with trailers": Case(200, True, (CHUNKED,), IN_CHUNKS + b"X-Checksum: 7\r\nX-Other: 8\r\n\r\n"),
    "trailers that would change it": Case(
        200,
        True,
        (CHUNKED,),
        IN_CHUNKS + b"Content-Encoding: br\r\nInference-Header-Content-Length: 3\r\n"
        b"X-Request-Timeout-Ms: soon\r\n\r\n",
    ),
    "expects to be asked for its body": Case(200, True, (LENGTH, b"Expect: 100-continue")),
    "expects it in other letters": Case(200, True, (LENGTH, b"EXPECT: 100-Continue")),
    "length twice": Case(400, False, (LENGTH, LENGTH)),
    "two lengths": Case(400, False, (LENGTH, b"Content-Length: 3")),
    "two lengths in one": Case(400, False, (LENGTH + b", %d" % len(BODY),)),
    "length below nothing": Case(400, False, (b"Content-Length: -1",)),
    "length with a sign": Case(400, False, (b"Content-Length: +%d" % len(BODY),)),
    "length in words": Case(400, False, (b"Content-Length: all",)),
    "length of nothing": Case(400, False, (b"Content-Length:",)),
    "length beyond numbers": Case(400, False, (b"Content-Length: " + b"9" * 40,)),
    "length in the trailers": Case(400, False, (CHUNKED,), IN_CHUNKS + b"Content-Length: 3\r\n\r\n"),
    "length and chunks": Case(400, False, (LENGTH, CHUNKED), IN_CHUNKS + b"\r\n"),
    "chunks and length": Case(400, False, (CHUNKED, LENGTH), IN_CHUNKS + b"\r\n"),
    "chunks in something else": Case(400, False, (b"Transfer-Encoding: chunked, gzip",), IN_CHUNKS + b"\r\n"),
    "an unknown coding": Case(400, False, (b"Transfer-Encoding: xchunked",), IN_CHUNKS + b"\r\n"),
    "chunks by a tab": Case(400, False, (b"Transfer-Encoding: \x0bchunked",), IN_CHUNKS + b"\r\n"),
    "chunk of a bad size": Case(400, False, (CHUNKED,), b"-5\r\nabcde\r\n0\r\n\r\n"),
    "chunk longer than it says": Case(400, False, (CHUNKED,), b"3\r\nabcde\r\n0\r\n\r\n"),
    "chunk beyond numbers": Case(400, False, (CHUNKED,), b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n"),
    "a blank in a name": Case(400, False, (LENGTH, b"X Name: 1")),
    "a blank behind a name": Case(400, False, (b"Content-Length : %d" % len(BODY),)),
    "a line that goes on": Case(400, False, (LENGTH, b"X-Name: 1", b" 2")),
    "no colon": Case(400, False, (LENGTH, b"X-Name")),
    "no name": Case(400, False, (LENGTH, b": 1")),
    "a zero in a value": Case(400, False, (LENGTH, b"X-Name: a\x00b")),
    "lines without returns": Case(400, False, end=b"\n"),
    "a method in small letters": Case(400, False, line=b"post " + PATH + b" HTTP/1.1"),
    "a method that nobody knows": Case(400, False, line=b"ASK " + PATH + b" HTTP/1.1"),
    "no version": Case(400, False, line=b"POST " + PATH),
    "HTTP/2 in the line": Case(400, False, line=b"POST " + PATH + b" HTTP/2.0"),
    "a blank in the path": Case(400, False, line=b"POST " + PATH + b" more HTTP/1.1"),
    "a path without slash": Case(400, False, line=b"POST v2/models HTTP/1.1"),
    "a path of odd bytes": Case(400, False, line=b"POST /v2/models/\xff\xfe/infer HTTP/1.1"),
    "a very long address": Case(431, False, line=b"POST " + PATH + b"?" + b"a" * 70_000 + b" HTTP/1.1"),
    "no body at all": Case(400, True, (), b""),
    "a method that is not there": Case(405, True, line=b"PUT " + PATH + b" HTTP/1.1"),
}  # fmt: skip


def verdict(service: RunningService, sent: bytes) -> tuple[int, bool, bytes]:
    """The status of the one answer, whether the connection goes on behind it, and its body."""
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=20) as peer:
        peer.sendall(sent)
        response = http.client.HTTPResponse(peer, method="POST")
        response.begin()
        body = response.read()
        says_close = response.getheader("Connection", "").lower() == "close"
        try:
            peer.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            rest = b"".join(iter(lambda: peer.recv(1 << 16), b""))
        except OSError:
            rest = b""
        assert rest.count(b"HTTP/1.1 ") <= 1
        assert says_close is not rest.startswith(b"HTTP/1.1 200 "), (says_close, rest)
        return response.status, bool(rest), body


@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_verdict_that_was_meant(service: RunningService, name: str) -> None:
    case = CASES[name]
    found = [verdict(service, case.sent(way)) for way in (DIRECT, BY_THE_APPLICATION)]
    assert [(status, goes_on) for status, goes_on, _ in found] == [(case.status, case.goes_on)] * 2
    for _, _, body in found:
        if case.status == 200:
            assert json.loads(body)["outputs"][0]["data"] == [1, 2, 3]
        else:
            assert json.loads(body)["error"]


@pytest.mark.parametrize("way", [DIRECT, BY_THE_APPLICATION])
def test_a_caller_who_waits_to_be_asked_is_asked(service: RunningService, way: bytes) -> None:
    case = Case(200, True, (LENGTH, b"Expect: 100-continue"))
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=20) as peer:
        peer.sendall(case.sent(way)[: -len(BODY)])
        assert peer.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(BODY)
        response = http.client.HTTPResponse(peer, method="POST")
        response.begin()
        assert (response.status, json.loads(response.read())["model_name"]) == (200, "identity_fp32")
