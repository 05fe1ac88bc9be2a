"""Connections whose requests wait at the shedder: each is answered in its turn, if its caller is still there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from enginehouse.errors import Overloaded
from service.http.application import create_application
from service.http.direct import DirectInference
from service.http.listener import HttpListener
from service.http.load_shedding import TurnTaker
from tests.service.http.conftest import House, ScriptedModel, text_response
from tests.service.http.test_connection import connect, connections, end, post, read_all, send, until

STALL = 0.3
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno"


@dataclass
class BusyLoop:
    """Lets nobody in until the test says so."""

    waiting_turns: list[TurnTaker] = field(default_factory=list)
    is_refusing: bool = False
    time_left: bool = False
    noted: list[tuple[str, str]] = field(default_factory=list)
    refused: bytes = REFUSED
    came_at: float = 5.0

    def has_time(self) -> bool:
        return self.time_left

    def note_refusal(self, model: str, version: str) -> None:
        self.noted.append((model, version))

    def now(self) -> float:
        return self.came_at

    def refusal(self, _data: bytes) -> bytes | None:
        return self.refused if self.is_refusing else None

    def queue(self, turn_taker: TurnTaker) -> None:
        self.waiting_turns.append(turn_taker)

    async def let_in(self) -> None:
        await until(lambda: bool(self.waiting_turns))
        self.waiting_turns.pop(0).take_turn()


@dataclass
class Opened:
    listener: HttpListener
    shedder: BusyLoop
    model: ScriptedModel


@pytest.fixture
async def opened(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    monkeypatch.setattr("service.http.patience.STALL_SECONDS", STALL)
    shedder: Any = BusyLoop()
    listener = HttpListener(
        create_application(house.server, None, 1_000_000),
        "127.0.0.1",
        0,
        grace_seconds=1,
        direct=DirectInference(house.server, 1_000_000),
        shedder=shedder,
    )
    listener.start()
    yield Opened(listener, shedder, house.serve(lambda _, settle: settle(text_response("yes"))))
    await listener.stop()


CLOSING = b"Connection: close"


async def test_a_request_is_answered_in_its_turn_and_its_time_runs_from_when_it_came(opened: Opened) -> None:
    peer = await connect(opened.listener)
    await send(peer, post(CLOSING))
    await until(lambda: bool(opened.shedder.waiting_turns))
    assert opened.model.asked == []
    await opened.shedder.let_in()
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")
    assert [request.received_at for request in opened.model.asked] == [5.0]


async def test_a_refusal_is_handed_out_although_there_is_time_and_what_is_not_refused_is_served_at_once(
    opened: Opened,
) -> None:
    opened.shedder.time_left = True
    peer = await connect(opened.listener)
    opened.shedder.is_refusing = True
    await send(peer, post())
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1000), 10) == REFUSED
    opened.shedder.is_refusing = False
    await send(peer, post(CLOSING))
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")
    assert len(opened.model.asked) == 1
    assert opened.shedder.waiting_turns == []


async def test_the_shedder_hears_that_a_model_refuses_what_was_read(opened: Opened) -> None:
    opened.shedder.time_left = True
    opened.model.answer = lambda _, settle: settle(Overloaded("too much waits"))
    peer = await connect(opened.listener)
    await send(peer, post(CLOSING))
    assert (await read_all(peer)).startswith(b"HTTP/1.1 503 ")
    assert opened.shedder.noted == [("talker", "")]


async def test_what_it_waited_is_no_time_of_decoding(opened: Opened) -> None:
    peer = await connect(opened.listener)
    opened.shedder.came_at = asyncio.get_running_loop().time()
    await send(peer, post(CLOSING))
    await asyncio.sleep(0.2)
    await opened.shedder.let_in()
    await read_all(peer)
    (request,) = opened.model.asked
    assert request.unread_seconds > 0.15
    assert 0 < request.decode_seconds < 0.1


async def test_it_may_wait_longer_than_a_peer_may_stall(opened: Opened) -> None:
    peer = await connect(opened.listener)
    await send(peer, post(CLOSING))
    await asyncio.sleep(3 * STALL)
    await opened.shedder.let_in()
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")


async def test_nothing_is_computed_for_a_caller_who_left(opened: Opened) -> None:
    peer = await connect(opened.listener)
    await send(peer, post())
    await until(lambda: bool(opened.shedder.waiting_turns))
    end(peer)
    await until(lambda: not connections(opened.listener))
    await opened.shedder.let_in()
    assert opened.model.asked == []


async def test_a_caller_who_ends_its_side_hears_that_more_comes_and_then_its_answer(opened: Opened) -> None:
    peer = await connect(opened.listener)
    await send(peer, post())
    await until(lambda: bool(opened.shedder.waiting_turns))
    peer.shutdown(socket.SHUT_WR)
    interim = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1000), 10)
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    await opened.shedder.let_in()
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")


async def test_what_comes_behind_is_kept_and_answered_in_order(opened: Opened) -> None:
    peer = await connect(opened.listener)
    await send(peer, post())
    await until(lambda: bool(opened.shedder.waiting_turns))
    for piece in (post()[:20], post()[20:], post(CLOSING)):
        await send(peer, piece)
        await asyncio.sleep(0.02)
    await opened.shedder.let_in()
    answer = await read_all(peer)
    assert answer.count(b"HTTP/1.1 200 ") == 3


async def test_who_is_refused_unread_may_ask_again_on_the_same_connection(opened: Opened) -> None:
    peer = await connect(opened.listener)
    opened.shedder.is_refusing = True
    await send(peer, post())
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.sock_recv(peer, 1000), 10) == REFUSED
    opened.shedder.is_refusing = False
    await send(peer, post(CLOSING))
    await opened.shedder.let_in()
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")
    assert len(opened.model.asked) == 1


async def test_who_does_not_read_its_refusals_waits_in_line_instead_of_filling_memory_with_more(opened: Opened) -> None:
    opened.shedder.is_refusing = True
    opened.shedder.refused = bytes(1 << 23)
    peer = await connect(opened.listener)
    await send(peer, post())
    kept: Any = opened.listener._server.server_state.connections
    await until(lambda: any(one.flow.write_paused for one in kept))
    await send(peer, post())
    await until(lambda: bool(opened.shedder.waiting_turns))
    end(peer)


async def test_the_end_of_the_server_does_not_forget_those_who_wait(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.connection.LINGER_SECONDS", 0.01)
    peer = await connect(opened.listener)
    await send(peer, post())
    await until(lambda: bool(opened.shedder.waiting_turns))
    stopping = asyncio.ensure_future(opened.listener.stop())
    await asyncio.sleep(0.3)
    await opened.shedder.let_in()
    answer = await read_all(peer)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    await stopping
