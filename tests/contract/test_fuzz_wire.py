"""Any bytes as the stream of a connection: each is answered in its protocol or closed, and the next caller served."""

import socket
from contextlib import suppress

import grpc
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enginehouse.proto import grpc_service_pb2 as pb
from tests.conftest import RunningService
from tests.contract.test_fuzz_rest import BODY, DOCUMENTED, HEADER

PATIENT = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
PATIENCE_SECONDS = 20

INFER = b"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: here\r\n"
LENGTHS = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n" % (len(HEADER), len(BODY))
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\nInference-Header-Content-Length: %d\r\n\r\n" % len(HEADER)
WHOLE = [
    LIVE,
    INFER + LENGTHS + b"\r\n" + BODY,
    INFER + LENGTHS + b"Accept-Encoding: gzip;q=0\r\n\r\n" + BODY,
    INFER + CHUNKED + b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY),
    INFER + LENGTHS + b"Expect: 100-continue\r\n\r\n" + BODY,
    INFER + LENGTHS + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + BODY,
    INFER.replace(b"1.1", b"1.0") + LENGTHS + b"Connection: keep-alive\r\n\r\n" + BODY,
    b"OPTIONS * HTTP/1.1\r\nHost: here\r\n\r\n",
    b"CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b":", b"\t", b"\xff", b"%", b"%00", b"%zz", b"?", b"#", b"//",
    b"0\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"A" * 70_000,
    b"ffffffffffffffff\r\n",
]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Up to three requests in a row, and up to four things done to their bytes."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "cut", "double", "insert", "end"))):
            case "change":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[place : place + draw(st.integers(1, 60))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 200))]
            case "insert":
                data[place:place] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
            case _:
                del data[place:]
    return bytes(data)


def told(port: int, data: bytes, piece: int = 1 << 20, leaves: bool = False) -> bytes | None:
    """What comes until the server closes the connection, which it must; None for a caller who left."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as peer:
        answer = b""
        with suppress(ConnectionError):
            for start in range(0, len(data), piece):
                peer.sendall(data[start : start + piece])
        if leaves:
            return None
        with suppress(OSError):
            # It may be closed already.
            peer.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while got := peer.recv(1 << 16):
                answer += got
        return answer


def statuses(answer: bytes) -> list[int]:
    """Read answers one behind the other; anything between them, or half of one, is an error."""
    found = []
    while answer:
        head, end, rest = answer.partition(b"\r\n\r\n")
        assert end, answer[:200]
        line, *lines = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), answer[:200]
        found.append(int(line.split(b" ")[1]))
        fields = {name.lower(): value.strip() for name, _, value in (text.partition(b":") for text in lines)}
        length = int(fields.get(b"content-length", b"0"))
        assert b"transfer-encoding" not in fields
        assert len(rest) >= length or found[-1] == 200, (head, rest[:200])
        answer = rest[length:]
        if fields.get(b"connection") == b"close":
            assert answer == b""
    return found


@PATIENT
@given(data=st.one_of(streams(), streams(), st.binary(max_size=300)), piece=st.sampled_from((1 << 20, 1 << 20, 97, 7)),
       leaves=st.sampled_from((False, False, False, True)))  # fmt: skip
def test_any_bytes_over_http_are_answered_or_the_connection_is_closed(
    service: RunningService, data: bytes, piece: int, leaves: bool
) -> None:
    seen = len(service.lines)
    answer = told(service.http_port, data, piece if len(data) < 5000 else 1 << 20, leaves)
    if answer is not None and b"HEAD" not in data:
        found = statuses(answer)
        assert set(found) <= {*DOCUMENTED, 100}, (found, data)
    assert urllib3.request("GET", f"{service.url}/v2/health/live", timeout=PATIENCE_SECONDS).status == 200
    assert "Traceback" not in "".join(service.lines[seen:])


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames of HTTP/2 of any kind and payload, sometimes of another length than they say."""
    data = b""
    for _ in range(draw(st.integers(1, 6))):
        payload = draw(st.binary(max_size=40))
        size = draw(st.sampled_from((len(payload), len(payload), len(payload), 0, 5, 1 << 14, (1 << 24) - 1)))
        stream = draw(st.sampled_from((0, 1, 1, 1, 2, 3, (1 << 31) - 1)))
        kind, flags = draw(st.integers(0, 11)), draw(st.integers(0, 255))
        data += size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    return data


GOAWAY = bytes([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])


@PATIENT
@example(data=PREFACE + GOAWAY)
@given(data=st.one_of(st.binary(max_size=300), frames().map(PREFACE.__add__), st.sampled_from(WHOLE)))
def test_any_bytes_on_the_port_of_grpc_end_their_connection_alone(service: RunningService, data: bytes) -> None:
    seen = len(service.lines)
    told(service.grpc_port, data)
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert pb.ServerLiveResponse.FromString(live(b"", timeout=PATIENCE_SECONDS)).live
    # What strangers send is not for the log.
    assert service.lines[seen:] == []
