"""Peers that stall, on a real connection; the other limits are tested in tests/contract."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from service.http.incoming import HEADER_NAMES
from service.http.listener import HttpListener


def make_app() -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> str:
        try:
            return str(len(await request.body()))
        except ClientDisconnect:
            return "gone"

    @app.post("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "done"

    @app.post("/names")
    async def names(request: Request) -> str:
        return ",".join(name.decode() for name in request.scope[HEADER_NAMES])

    return app


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr("service.http.patience.STALL_SECONDS", 0.4)
    monkeypatch.setattr("service.http.listener.KEEP_ALIVE_SECONDS", 0.5)
    listener = HttpListener(make_app(), "127.0.0.1", 0, grace_seconds=1)
    listener.start()
    yield listener.port
    await listener.stop()


async def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes, and read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "half",
    [
        b"POST /slow HTT",
        b"POST /slow HTTP/1.1\r\nHost: here\r\n",
        b"POST /slow HTTP/1.1\r\nContent-Length: 9\r\n\r\nhal",
    ],
)
async def test_half_a_request_is_told_that_nothing_more_came(port: int, half: bytes) -> None:
    answer = await exchange(port, half)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":"nothing came for 0.4 seconds' in answer


async def test_a_connection_that_never_says_anything_is_closed_without_a_word(port: int) -> None:
    assert await exchange(port, b"") == b""


async def test_a_whole_request_may_take_longer_than_a_peer_may_stall(port: int) -> None:
    whole = b"POST /slow HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = await exchange(port, whole)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'"done"')


async def test_a_request_behind_a_slow_one_is_not_taken_for_stalled(port: int) -> None:
    first = b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first + b"POST /slow HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 1\r\n\r\n")
    assert (await reader.readuntil(b'"done"')).startswith(b"HTTP/1.1 200 ")
    writer.write(b"x")
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


SLOW = b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"


UPGRADE = b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
LOOKS_LIKE_A_REQUEST = b"POST /slow HTTP/1.1\r\nHost:\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LOOKS_LIKE_A_REQUEST), LOOKS_LIKE_A_REQUEST)
BODIES = [
    (b"Content-Length: %d\r\n\r\n" % len(LOOKS_LIKE_A_REQUEST), LOOKS_LIKE_A_REQUEST),
    (b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED),
]


@pytest.mark.parametrize(("length", "body"), BODIES)
async def test_a_body_behind_an_upgrade_is_read_as_a_body(port: int, length: bytes, body: bytes) -> None:
    answer = await exchange(port, UPGRADE + length + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b'"%d"' % len(LOOKS_LIKE_A_REQUEST))


@pytest.mark.parametrize(("length", "body"), BODIES)
async def test_a_connection_goes_on_behind_an_upgrade_with_a_body(port: int, length: bytes, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for sent in (UPGRADE + length + body, UPGRADE + length + body, SLOW):
        # A byte at a time: the parser may stop and start again anywhere.
        for at in range(len(sent)):
            writer.write(sent[at : at + 1])
            await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b'"')
        await reader.readuntil(b'"')
    writer.close()
    await writer.wait_closed()


async def test_requests_in_a_row_behind_an_upgrade_with_a_body_are_all_answered(port: int) -> None:
    one = UPGRADE + b"Content-Length: 3\r\n\r\nabc"
    last = b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 4\r\n\r\nabcd"
    answer = await exchange(port, one + one + last)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.endswith(b'"4"')


async def test_what_is_no_body_behind_an_upgrade_is_refused(port: int) -> None:
    answer = await exchange(port, UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + LOOKS_LIKE_A_REQUEST)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"content-length: ") == 1


async def test_headers_keep_their_names_as_they_were_sent(port: int) -> None:
    head = b"POST /names HTTP/1.1\r\nHost: here\r\nX-Mixed_Case: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert b"X-Mixed_Case" in await exchange(port, head)


@pytest.fixture
async def small_port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr("service.http.connection.REFUSAL_SECONDS", 0.2)
    listener = HttpListener(make_app(), "127.0.0.1", 0, grace_seconds=1, max_connections=2)
    listener.start()
    yield listener.port
    await listener.stop()


ECHO = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("sent", [ECHO, b""])
async def test_a_connection_beyond_the_limit_is_told_so_and_makes_room_again(small_port: int, sent: bytes) -> None:
    peers = [await asyncio.open_connection("127.0.0.1", small_port) for _ in range(2)]
    for reader, writer in peers:
        writer.write(ECHO)
        assert (await asyncio.wait_for(reader.readuntil(b'"0"'), 30)).startswith(b"HTTP/1.1 200 ")
    answer = await exchange(small_port, sent)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer
    assert b"--http-max-connections" in answer
    for reader, writer in peers:
        writer.write(ECHO)
        assert (await asyncio.wait_for(reader.readuntil(b'"0"'), 30)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()
    last = ECHO.replace(b"Host", b"Connection: close\r\nHost")
    assert (await exchange(small_port, last)).startswith(b"HTTP/1.1 200 ")


async def test_what_cannot_be_read_behind_a_request_does_not_take_its_answer(port: int) -> None:
    answer = await exchange(port, SLOW + b"garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'"done"')


async def test_an_end_of_head_that_comes_in_two_pieces_is_found(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 100000\r\n\r")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"\n" + bytes(100_000))
    assert (await asyncio.wait_for(reader.read(), 30)).endswith(b'"100000"')
    writer.close()
    await writer.wait_closed()


async def test_what_begins_no_request_does_not_keep_a_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(SLOW)
    await reader.readuntil(b'"done"')
    writer.write(b"\r\n")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await writer.wait_closed()


async def test_pipelined_callers_that_leave_raise_nothing(port: int, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(SLOW * 3)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
    await asyncio.sleep(1.2)
    assert caplog.records == []
