"""Inference inside the protocol: what it does on a connection; tests/contract compares it with the application."""

import asyncio
import gc
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from enginehouse.errors import Error, NotReady, Overloaded
from service.http.direct import DirectExchange, DirectInference
from service.http.listener import HttpListener
from service.http.protocol import LimitedProtocol
from service.request import InferRequest, Settle
from tests.service.http.conftest import House, text_response
from tests.service.http.test_connection import until

BODY = b'{"inputs": [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}'


def post(body: bytes = BODY, *headers: bytes) -> bytes:
    head = [b"POST /v2/models/talker/infer HTTP/1.1", b"Host: here", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join((*head, b"", body))


def echo(request: InferRequest, settle: Settle) -> None:
    settle(text_response(request.id))


@pytest.fixture
async def port(house: House) -> AsyncIterator[int]:
    listener = HttpListener(FastAPI(), "127.0.0.1", 0, grace_seconds=1, direct=DirectInference(house.server, 100_000))
    listener.start()
    yield listener.port
    await listener.stop()


async def answers(port: int, sent: bytes) -> bytes:
    """All that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


def taken(house: House, connection: "FakeConnection") -> DirectExchange:
    """An exchange whose whole request came."""
    fields = [(b"content-length", b"%d" % len(BODY))]
    direct = DirectInference(house.server, 1000)
    asked = direct.asked(b"/v2/models/talker/infer", fields)
    assert asked is not None
    exchange = direct.exchange(asked, connection, [])
    exchange.body += BODY
    exchange.more_body = False
    exchange.come_first()
    return exchange


async def test_a_connection_keeps_no_body_whose_request_is_answered(house: House) -> None:
    house.serve(lambda _request, _settle: None)
    assert not taken(house, FakeConnection()).body


@pytest.mark.parametrize(("problem", "noted"), [(Overloaded("full"), [("talker", "")]), (NotReady("gone"), [])])
async def test_the_connection_hears_that_too_much_waits_and_of_no_other_refusal(
    house: House, problem: Error, noted: list[tuple[str, str]]
) -> None:
    house.serve(lambda _request, settle: settle(problem))
    connection = FakeConnection()
    taken(house, connection)
    assert connection.refusals == noted


class Transport(asyncio.Transport):
    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None: ...


class FakeConnection:
    """Takes an answer."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.flow = Flow()
        self.refusals: list[tuple[str, str]] = []

    def on_response_complete(self) -> None: ...

    def note_refusal(self, model: str, version: str) -> None:
        self.refusals.append((model, version))


class Flow:
    write_paused = False


async def test_nothing_is_computed_behind_the_last_answer_of_a_connection(house: House, port: int) -> None:
    model = house.serve(echo)
    answer = await answers(port, post(b"{", b"Connection: close") + post())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not model.asked


async def test_a_long_line_of_requests_is_answered_one_after_the_other(house: House, port: int) -> None:
    held: list[Settle] = []
    house.serve(lambda request, settle: echo(request, settle) if held else held.append(settle))
    count = 1500
    waiting = asyncio.ensure_future(answers(port, post() + post(b"{") * count + post(BODY, b"Connection: close")))
    async with asyncio.timeout(30):
        while not held:
            await asyncio.sleep(0)
        # What was sent is read in a few pieces, each parsed before this task runs again.
        for _ in range(100):
            await asyncio.sleep(0)
        held[0](text_response("first"))
        answer = await waiting
    assert answer.count(b"HTTP/1.1 400 ") == count
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"HTTP/1.1 ") == count + 2


@pytest.mark.parametrize("problem", [None, Overloaded("full")])
async def test_an_answered_request_leaves_no_cycle_that_a_collector_must_find(
    house: House, port: int, problem: Error | None
) -> None:
    house.serve(lambda request, settle: settle(problem or text_response(request.id)))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            writer.write(post())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            (length,) = re.findall(rb"content-length: ([0-9]+)", head.lower())
            await reader.readexactly(int(length))
        assert gc.collect() < 50
    finally:
        gc.enable()
        writer.close()
        await writer.wait_closed()


def connections_in_memory() -> int:
    return sum(isinstance(one, LimitedProtocol) for one in gc.get_objects())


@pytest.mark.parametrize("path", [b"/v2/models/talker/infer", b"/v2/models/talker/versions/1/stats", b"/v2/nothing"])
async def test_a_connection_that_is_gone_leaves_nothing_to_a_collector(house: House, port: int, path: bytes) -> None:
    house.serve(echo)
    gc.collect()
    gc.disable()
    of_others = connections_in_memory()
    try:
        for sent in (post(), post()[:-5], post() + post(), b""):
            connection = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
            await asyncio.to_thread(connection.sendall, sent.replace(b"/v2/models/talker/infer", path))
            if sent == post():
                assert (await asyncio.to_thread(connection.recv, 1)) == b"H"
            connection.close()
        await until(lambda: connections_in_memory() <= of_others)
    finally:
        gc.enable()


async def test_a_caller_who_reads_nothing_is_asked_to_wait(house: House, port: int) -> None:
    large = text_response("x" * 1_000_000)
    model = house.serve(lambda _request, settle: settle(large))
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.setblocking(False)
        await loop.sock_sendall(caller, post() * 99 + post(BODY, b"Connection: close"))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert 0 < len(model.asked) < 50
        answer = bytearray()
        async with asyncio.timeout(30):
            while piece := await loop.sock_recv(caller, 1 << 20):
                answer += piece
    assert answer.count(b"HTTP/1.1 200 ") == len(model.asked) == 100
