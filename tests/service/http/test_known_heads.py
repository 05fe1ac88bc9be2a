"""A head that is known is answered as one that is parsed, whatever comes before, behind and between its pieces."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from service.http.application import create_application
from service.http.direct import DirectInference
from service.http.known_heads import MOST_HEAD_BYTES, MOST_HEADS, Asked, KnownHeads
from service.http.listener import HttpListener
from service.http.protocol import LimitedProtocol
from service.request import InferRequest, Settle
from tests.service.http.conftest import House, text_response
from tests.service.http.test_connection import connect, read_all, send

HEAD = b"POST /v2/models/talker/infer HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
ASKED = Asked("talker", "", None, None, 2)


def body(number: int) -> bytes:
    tensor = b'{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["x"]}'
    return b'{"id": "%04d", "inputs": [%s]}' % (number, tensor)


def request(number: int, *headers: bytes) -> bytes:
    content = body(number)
    lines = [b"POST /v2/models/talker/infer HTTP/1.1", b"Host: here", b"Content-Length: %d" % len(content), *headers]
    return b"\r\n".join((*lines, b"", content))


def echo(asked: InferRequest, settle: Settle) -> None:
    settle(text_response(asked.id))


@pytest.fixture
async def listener(house: House) -> AsyncIterator[HttpListener]:
    direct = DirectInference(house.server, 100_000)
    one = HttpListener(create_application(house.server, None, 100_000), "127.0.0.1", 0, grace_seconds=1, direct=direct)
    one.start()
    house.serve(echo)
    yield one
    await one.stop()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each head that a parser read."""
    heads: list[None] = []
    read = LimitedProtocol.on_headers_complete

    def count(protocol: LimitedProtocol) -> None:
        heads.append(None)
        read(protocol)

    monkeypatch.setattr(LimitedProtocol, "on_headers_complete", count)
    return heads


async def texts(listener: HttpListener, *pieces: bytes, rest_seconds: float = 0.01) -> Any:
    """What the answers of one connection say, in their order, with the pieces sent one after the other."""
    peer = await connect(listener)
    for piece in pieces:
        await send(peer, piece)
        await asyncio.sleep(rest_seconds)
    return re.findall(rb'"data":\["(\d+)"\]|HTTP/1.1 ([45]\d\d)', await read_all(peer))


def said(*numbers: int) -> list[tuple[bytes, bytes]]:
    return [(b"%04d" % number, b"") for number in numbers]


LAST = request(9999, b"Connection: close")


async def test_a_head_is_parsed_once_however_many_requests_and_connections_send_it(
    listener: HttpListener, parsed: list[None]
) -> None:
    for _ in range(2):
        assert await texts(listener, *(request(number) for number in range(5)), LAST) == said(*range(5), 9999)
    # The last of each connection ends it, which is nothing to be remembered.
    assert len(parsed) == 1 + 2


async def test_a_head_that_came_with_a_long_body_is_known_too(listener: HttpListener, parsed: list[None]) -> None:
    content = body(7)[:-1] + b" " * 9000 + b"}"
    long = HEAD.replace(b": 2", b": %d" % len(content)) + content
    assert await texts(listener, long, long, long, LAST) == said(7, 7, 7, 9999)
    assert len(parsed) == 2


async def test_a_known_head_is_answered_like_any_other_wherever_its_connection_is_cut(listener: HttpListener) -> None:
    rng = random.Random(5)
    forms: list[Callable[[int], bytes]] = [
        request,
        request,
        lambda number: request(number, b"X-Trace: %d" % number),
        lambda number: b"\r\n" + request(number),
    ]
    for _ in range(40):
        count = rng.randint(1, 8)
        stream = b"".join(rng.choice(forms)(number) for number in range(count)) + LAST
        ends = re.finditer(rb"(?<=\}\]\})", stream)
        cuts = {match.start() for match in ends} if rng.random() < 0.5 else set()
        cuts |= {rng.randrange(len(stream)) for _ in range(rng.randint(0, 3))}
        places = [0, *sorted(cuts), len(stream)]
        pieces = [stream[start:end] for start, end in pairwise(places) if start < end]
        told = await texts(listener, *pieces, rest_seconds=rng.choice([0.0, 0.003]))
        assert told == said(*range(count), 9999), pieces


async def test_a_body_that_looks_like_a_request_with_a_known_head_is_a_body(listener: HttpListener) -> None:
    inner = request(2)
    outer = HEAD.replace(b": 2", b": %d" % len(inner))
    half_a_head = HEAD.removesuffix(b"\r\n")
    for begun in (outer, half_a_head):
        told = await texts(listener, request(1), begun, inner, *([LAST] if begun is outer else []))
        assert told == [*said(1), (b"", b"400"), *(said(9999) if begun is outer else [])]


async def test_ends_of_lines_before_a_request_make_no_head_of_others(listener: HttpListener) -> None:
    whole = b"\r\n\r\n" + request(1)
    size = 4 + len(body(1))
    assert await texts(listener, whole[:size], whole[size:], LAST) == said(1, 9999)
    other = b"\r\n\r\nGET /v2/health/live HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX: "
    peer = await connect(listener)
    await send(peer, other + b"x" * (size - len(other) - 4) + b"\r\n\r\n")
    assert (await read_all(peer)).startswith(b"HTTP/1.1 200 ")


async def test_ends_of_lines_between_known_requests_are_no_head_that_grows(listener: HttpListener) -> None:
    assert await texts(listener, request(1), LAST) == said(1, 9999)
    many = b"\r\n" * 1000
    pieces = [many] * 31 + [request(2)] + [many] * 4 + [LAST]
    assert await texts(listener, *pieces, rest_seconds=0.003) == said(2, 9999)


async def test_what_is_wrong_with_a_body_is_told_behind_a_known_head_too(listener: HttpListener) -> None:
    wrong = request(3).replace(b'"PROMPT"', b'"PROMPT\x00')
    assert await texts(listener, request(1), request(2), wrong, request(4), LAST) == [
        *said(1, 2),
        (b"", b"400"),
        *said(4, 9999),
    ]


async def test_a_server_that_ends_says_so_behind_a_known_head_too(listener: HttpListener) -> None:
    peer = await connect(listener)
    await send(peer, request(1))
    await asyncio.sleep(0.02)
    stopping = asyncio.ensure_future(listener.stop())
    await asyncio.sleep(0.15)
    await send(peer, request(2))
    answer = await read_all(peer)
    await stopping
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.lower().count(b"connection: close") == 1


def test_only_a_whole_request_with_the_same_head_is_known() -> None:
    heads = KnownHeads()
    heads.remember(HEAD + b"{}", ASKED)
    found = heads.find(HEAD + b"[]")
    assert found is not None
    assert (found[0], bytes(found[1])) == (ASKED, b"[]")
    for other in (HEAD, HEAD + b"[", HEAD + b"[]P", HEAD.lower() + b"[]", b"\r\n" + HEAD + b"[]", b"", b"\r\n\r\n"):
        assert heads.find(other) is None


def test_what_only_looks_like_the_end_of_a_head_is_not_taken_for_it() -> None:
    heads = KnownHeads()
    heads.remember(b"\r\n\r\n{}", ASKED)
    assert heads.find(b"\r\n\r\n{}") is None
    plain = HEAD.replace(b"\r\n", b"\n").replace(b": 2", b": 6")
    heads.remember(plain + b"1\r\n\r\n2", Asked("talker", "", None, None, 6))
    assert heads.find(plain + b"1\r\n\r\n2") is None
    assert heads.find(plain + b"1\r\n\r\n123456") is None


def test_heads_that_differ_each_time_and_long_ones_take_no_memory() -> None:
    heads = KnownHeads()
    long = HEAD.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * MOST_HEAD_BYTES + b"\r\n\r\n")
    heads.remember(long + b"{}", ASKED)
    assert heads.find(long + b"{}") is None
    for number in range(3 * MOST_HEADS):
        heads.remember(b"POST %d\r\n\r\n{}" % number, ASKED)
        assert len(heads._heads) <= MOST_HEADS
    assert heads.find(b"POST %d\r\n\r\n{}" % (3 * MOST_HEADS - 1)) is not None
