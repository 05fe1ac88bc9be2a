"""Peers that leave, half leave, do not read or hardly send: on real connections, on the loop that serves them."""

import asyncio
import gc
import re
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi import FastAPI

from service.http.application import create_application
from service.http.direct import DirectInference
from service.http.listener import HttpListener
from service.http.load_shedding import LoadShedder, TurnTaker
from service.http.pieces import FIRST_PIECE_BYTES, MAX_IN_LINE
from service.http.protocol import LimitedProtocol
from service.request import InferRequest, Settle
from tests.service.http.conftest import END, House, ScriptedModel, text_response

BODY = b'{"inputs": [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}'
FLAT = b'{"PROMPT": "x"}'
# Nobody can pack so little; it only says which way the request takes.
BY_THE_APPLICATION = b"Accept-Encoding: gzip;q=0"
DIRECT: tuple[bytes, ...] = ()
WAYS = pytest.mark.parametrize("way", [DIRECT, (BY_THE_APPLICATION,)], ids=["direct", "application"])
STALL = 0.3


@pytest.fixture
async def listener(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpListener]:
    monkeypatch.setattr("service.http.patience.STALL_SECONDS", STALL)
    monkeypatch.setattr("service.http.patience.WRITE_STALL_SECONDS", STALL)
    opened = HttpListener(
        create_application(house.server, None, 1_000_000),
        "127.0.0.1",
        0,
        grace_seconds=1,
        direct=DirectInference(house.server, 1_000_000),
    )
    opened.start()
    yield opened
    await opened.stop()


def post(*headers: bytes, body: bytes = BODY, action: bytes = b"infer", version: bytes = b"1.1") -> bytes:
    first = b"POST /v2/models/talker/%b HTTP/%b" % (action, version)
    return b"\r\n".join((first, b"Host: here", b"Content-Length: %d" % len(body), *headers, b"", body))


class Held:
    """A model that answers when the test says so."""

    def __init__(self, house: House) -> None:
        self.settles: list[Settle] = []
        self.model: ScriptedModel = house.serve(self._hold)

    def _hold(self, _request: InferRequest, settle: Settle) -> None:
        self.settles.append(settle)

    async def until_asked(self, count: int) -> None:
        await until(lambda: len(self.settles) >= count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def connect(listener: HttpListener) -> socket.socket:
    peer = socket.socket()
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", listener.port))
    return peer


async def send(peer: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, data)


async def read_all(peer: socket.socket) -> bytes:
    """All that comes until the server closes the connection, which then is closed here too."""
    answer = b""
    # Who still sends to a connection that was closed is told so by a reset, behind what was sent to it.
    with suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1 << 20), 30):
            answer += piece
    peer.close()
    return answer


def end(peer: socket.socket) -> None:
    peer.close()


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def connections(listener: HttpListener) -> int:
    return len(listener._server.server_state.connections)


@WAYS
@pytest.mark.parametrize("leave", [end, reset])
async def test_requests_in_a_row_are_not_computed_for_a_caller_who_left(
    house: House, listener: HttpListener, way: tuple[bytes, ...], leave: Callable[[socket.socket], None]
) -> None:
    held = Held(house)
    peer = await connect(listener)
    await send(peer, post(*way) * 3)
    await held.until_asked(1)
    leave(peer)
    await asyncio.wait_for(held.model.left.wait(), 10)
    await until(lambda: not connections(listener))
    held.settles[0](text_response("late"))
    await asyncio.sleep(0.05)
    assert len(held.model.asked) == 1


@WAYS
async def test_a_caller_who_ends_its_side_hears_its_answer(
    house: House, listener: HttpListener, way: tuple[bytes, ...]
) -> None:
    house.serve(lambda _, settle: settle(text_response("at once")))
    peer = await connect(listener)
    await send(peer, post(*way))
    peer.shutdown(socket.SHUT_WR)
    answer = await read_all(peer)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"at once" in answer


@WAYS
async def test_one_that_takes_longer_is_told_that_more_comes_and_is_answered(
    house: House, listener: HttpListener, way: tuple[bytes, ...]
) -> None:
    held = Held(house)
    peer = await connect(listener)
    await send(peer, post(*way) * 2)
    peer.shutdown(socket.SHUT_WR)
    for number in (1, 2):
        await held.until_asked(number)
        await asyncio.sleep(0.1)
        held.settles[number - 1](text_response(f"answer {number}"))
    answer = await read_all(peer)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 100 ") == 1
    assert answer.index(b"answer 1") < answer.index(b"answer 2")
    assert not held.model.left.is_set()


@WAYS
async def test_http_1_0_is_told_nothing_before_its_answer(
    house: House, listener: HttpListener, way: tuple[bytes, ...]
) -> None:
    held = Held(house)
    peer = await connect(listener)
    await send(peer, post(*way, version=b"1.0"))
    peer.shutdown(socket.SHUT_WR)
    await held.until_asked(1)
    await asyncio.sleep(0.1)
    held.settles[0](text_response("answer"))
    answer = await read_all(peer)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("half", [b"POST /v2/mod", post()[:-5], post(BY_THE_APPLICATION)[:-5]])
async def test_half_a_request_that_ends_is_refused_behind_the_answers_to_whole_ones(
    house: House, listener: HttpListener, half: bytes
) -> None:
    held = Held(house)
    peer = await connect(listener)
    await send(peer, half)
    peer.shutdown(socket.SHUT_WR)
    answer = await read_all(peer)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the connection ended before the whole request came" in answer
    peer = await connect(listener)
    await send(peer, post() * 3 + half)
    peer.shutdown(socket.SHUT_WR)
    for number in (1, 2, 3):
        await held.until_asked(number)
        held.settles[number - 1](text_response("whole"))
    answer = await read_all(peer)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.count(b"HTTP/1.1 4") == 0
    assert len(held.model.asked) == 3


async def test_the_reader_of_a_stream_may_end_its_side_and_one_that_left_is_found_out(
    house: House, listener: HttpListener
) -> None:
    asked: list[tuple[InferRequest, Settle]] = []

    def answer(request: InferRequest, settle: Settle) -> None:
        asked.append((request, settle))
        assert request.emit is not None
        request.emit(text_response("one"))

    model = house.serve(answer, is_decoupled=True)
    for has_left in (False, True):
        peer = await connect(listener)
        await send(peer, post(body=FLAT, action=b"generate_stream"))
        assert b"200 OK" in await asyncio.get_running_loop().sock_recv(peer, 1 << 16)
        peer.shutdown(socket.SHUT_WR)
        if has_left:
            peer.close()
            await asyncio.wait_for(model.left.wait(), 10)
            continue
        await asyncio.sleep(0.1)
        request, settle = asked[0]
        assert request.emit is not None
        request.emit(text_response("two"))
        settle(END)
        rest = await read_all(peer)
        assert b"3\r\n:\n\n\r\n" in rest
        assert b'"two"' in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert not model.left.is_set()


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """Bytes that Python took since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@pytest.mark.parametrize("way", [DIRECT, (BY_THE_APPLICATION,), (b"Connection: close",)])
async def test_an_answer_that_nobody_reads_is_dropped_and_its_memory_is_free(
    house: House,
    listener: HttpListener,
    way: tuple[bytes, ...],
    caplog: pytest.LogCaptureFixture,
    allocated: Callable[[], int],
) -> None:
    model = house.serve(lambda _, settle: settle(text_response("x" * 20_000_000)))
    peer = await connect(listener)
    await send(peer, post(*way))
    await until(lambda: bool(model.asked))
    assert allocated() > 20_000_000
    await until(lambda: not connections(listener))
    gc.collect()
    # What the loop was writing is free once it has closed the socket.
    await asyncio.sleep(0.05)
    assert allocated() < 5_000_000
    assert "is dropped: it left" in caplog.text
    peer.close()


async def test_a_reader_who_is_slow_but_reads_gets_all_of_it(house: House, listener: HttpListener) -> None:
    house.serve(lambda _, settle: settle(text_response("x" * 20_000_000)))
    peer = await connect(listener)
    await send(peer, post(b"Connection: close"))
    size = 0
    began = asyncio.get_running_loop().time()
    while piece := await asyncio.get_running_loop().sock_recv(peer, 300_000):
        size += len(piece)
        await asyncio.sleep(0.02)
    peer.close()
    assert size > 20_000_000
    assert asyncio.get_running_loop().time() - began > 2 * STALL


async def test_events_that_nobody_reads_end_the_request(
    house: House, listener: HttpListener, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: InferRequest, _settle: Settle) -> None:
        assert request.emit is not None
        for _ in range(200):
            request.emit(text_response("x" * 100_000))

    model = house.serve(answer, is_decoupled=True)
    peer = await connect(listener)
    await send(peer, post(body=FLAT, action=b"generate_stream"))
    await asyncio.wait_for(model.left.wait(), 10)
    await until(lambda: not connections(listener))
    assert "is dropped: it left" in caplog.text
    peer.close()


HEAD = b"POST /v2/models/talker/infer HTTP/1.1\r\nHost: here\r\n"
TRICKLES = [
    (HEAD + b"X-Long: ", b"its head did not come within"),
    (HEAD + b"Content-Length: 9999\r\n\r\n", b"fewer than 240 bytes came in a second"),
    (HEAD + BY_THE_APPLICATION + b"\r\nContent-Length: 9999\r\n\r\n", b"fewer than 240 bytes came in a second"),
]


@pytest.mark.parametrize(("start", "told"), TRICKLES)
async def test_a_request_that_comes_in_drops_is_ended(listener: HttpListener, start: bytes, told: bytes) -> None:
    peer = await connect(listener)
    await send(peer, start)
    dripping = asyncio.ensure_future(drip(peer))
    answer = await read_all(peer)
    dripping.cancel()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert told in answer


async def drip(peer: socket.socket) -> None:
    while True:
        await asyncio.sleep(STALL / 10)
        try:
            await send(peer, b"x")
        except OSError:
            return


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_hundreds_of_peers_that_hardly_send_keep_nobody_from_an_answer(
    house: House, listener: HttpListener
) -> None:
    house.serve(lambda _, settle: settle(text_response("answer")))
    before = open_descriptors()
    slow = [await connect(listener) for _ in range(500)]
    reading: list[Awaitable[bytes]] = []
    for number, peer in enumerate(slow):
        await send(peer, TRICKLES[number % len(TRICKLES)][0])
        reading.append(asyncio.ensure_future(read_all(peer)))
    dripping = [asyncio.ensure_future(drip(peer)) for peer in slow]
    for _ in range(20):
        peer = await connect(listener)
        await send(peer, post(b"Connection: close"))
        assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")
    answers = await asyncio.gather(*reading)
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 "}
    await asyncio.gather(*dripping)
    await until(lambda: not connections(listener))
    await until(lambda: open_descriptors() <= before + 1)


async def test_a_flood_of_requests_in_a_row_is_kept_as_it_came_and_answered_to_its_end(
    house: House, listener: HttpListener
) -> None:
    held = Held(house)
    flood = 3000
    peer = await connect(listener)
    await send(peer, post() + b"GET / HTTP/1.1\r\n\r\n" * flood)
    peer.shutdown(socket.SHUT_WR)
    await held.until_asked(1)
    await asyncio.sleep(0.1)
    (connection,) = listener._server.server_state.connections
    assert isinstance(connection, LimitedProtocol)
    assert MAX_IN_LINE <= len(connection.pipeline) < MAX_IN_LINE + FIRST_PIECE_BYTES / 18 + 1
    held.settles[0](text_response("first"))
    answer = await read_all(peer)
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.count(b"HTTP/1.1 404 ") == flood


async def test_a_caller_who_floods_and_leaves_is_forgotten(house: House, listener: HttpListener) -> None:
    held = Held(house)
    peer = await connect(listener)
    await send(peer, post() * 300)
    await held.until_asked(1)
    reset(peer)
    await until(lambda: not connections(listener))
    held.settles[0](text_response("late"))
    await asyncio.sleep(0.05)
    assert len(held.model.asked) == 1


async def test_a_large_body_between_small_requests_comes_through(house: House, listener: HttpListener) -> None:
    house.serve(lambda request, settle: settle(text_response(str(len(request.inputs[0].data)))))
    sent = b""
    sizes = [1, 5000, 300_000, 3, 70_000]
    for size in sizes:
        sent += post(body=BODY.replace(b'"x"', b'"%b"' % (b"x" * size)))
    peer = await connect(listener)
    await send(peer, sent)
    peer.shutdown(socket.SHUT_WR)
    told = re.findall(rb'"data":\["(\d+)"\]', await read_all(peer))
    assert [int(size) - 4 for size in told] == sizes


class BusyLoop(LoadShedder):
    """Lets nobody in at once."""

    def has_time(self) -> bool:
        return False

    def queue(self, turn_taker: TurnTaker) -> None:
        asyncio.get_running_loop().call_later(0.05, turn_taker.take_turn)


async def test_a_body_that_waited_in_part_is_read_to_its_end(house: House) -> None:
    house.serve(lambda request, settle: settle(text_response(str(len(request.inputs[0].data)))))
    direct = DirectInference(house.server, 100_000)
    opened = HttpListener(FastAPI(), "127.0.0.1", 0, grace_seconds=1, direct=direct, shedder=BusyLoop(house.server))
    opened.start()
    peer = await connect(opened)
    sent = post(b"Connection: close", body=BODY.replace(b'"x"', b'"%b"' % (b"x" * 9000)))
    # What waits is in two pieces, and the rest of the request comes when it has its turn.
    for part in (sent[:1000], sent[1000:2000], sent[2000:]):
        await send(peer, part)
        await asyncio.sleep(0.01)
    assert b'"data":["9004"]' in await read_all(peer)
    await opened.stop()
