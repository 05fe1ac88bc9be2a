"""Peers that stall, on a real connection; the other limits are tested in tests/contract."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Request

from service.http.listener import HttpListener


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr("service.http.protocol.STALL_SECONDS", 0.4)
    monkeypatch.setattr("service.http.listener.KEEP_ALIVE_SECONDS", 0.5)
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> str:
        return str(len(await request.body()))

    @app.post("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "done"

    listener = HttpListener(app, "127.0.0.1", 0, grace_seconds=1)
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


@pytest.mark.parametrize("length", [b"Content-Length: 29", b"Transfer-Encoding: chunked"])
async def test_a_body_behind_an_upgrade_is_never_read_as_a_request(port: int, length: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + length + b"\r\n\r\n"
    answer = await exchange(port, head + b"POST /slow HTTP/1.1\r\nHost:\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"without the Upgrade header" in answer


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
