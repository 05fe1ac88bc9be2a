"""Bodies that come in pieces, packed and not, and what is left of a connection whose body was refused."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from service.request import InferRequest, Settle
from tests.service.http.conftest import House, text_response
from tests.service.http.test_incoming import BODY

TEXT = json.dumps(BODY).encode()
LIMIT = 100_000


def once(_request: InferRequest, settle: Settle) -> None:
    settle(text_response("A"))


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
        await asyncio.sleep(0)


async def send(house: House, data: bytes, encoding: str, size: int = 7) -> httpx.Response:
    headers = {"Content-Encoding": encoding} if encoding else {}
    return await house.client.post("/v2/models/talker/infer", content=pieces(data, size), headers=headers)


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "deflate", "GZIP"])
async def test_a_body_may_come_in_pieces(house: House, encoding: str) -> None:
    house.serve(once)
    packed = {"gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT)}.get(encoding.lower(), TEXT)
    answer = await send(house, packed, encoding)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("size", [64, 1 << 16])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(bytes(LIMIT + 1)), "when it is unpacked"),
        (gzip.compress(TEXT)[:-4], "ends before its end"),
        (gzip.compress(TEXT) + b"more", "something follows the end"),
        (TEXT, "is not gzip"),
        (gzip.compress(TEXT) + bytes(2 * LIMIT), "the request body has"),
        (b"", "failed to parse"),
    ],
)
async def test_a_refused_body_leaves_the_connection_usable(house: House, data: bytes, message: str, size: int) -> None:
    model = house.serve(once)
    answer = await send(house, data, "gzip", size)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    connection = answer.extensions["network_stream"]
    again = await send(house, TEXT, "")
    assert again.status_code == 200
    assert again.extensions["network_stream"] is connection
    assert len(model.asked) == 1


async def test_a_large_body_is_unpacked(house: House) -> None:
    house.serve(once)
    long = {**BODY, "id": "x" * 90_000}
    answer = await send(house, zlib.compress(json.dumps(long).encode(), 0), "deflate", 1 << 16)
    assert answer.status_code == 200
