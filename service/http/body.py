"""Read the body of a request, unpacked, within a limit."""

import asyncio
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from enginehouse.errors import InvalidInput, NotSupported
from service.codecs.compression import ENCODINGS, IDENTITY, Decompressor
from service.codecs.json_codec import object_from_json

# A smaller piece is unpacked where it comes: a thread would take longer than the work.
_THREAD_BYTES = 1 << 14

_READABLE = (*ENCODINGS, IDENTITY, "")


async def read_body(http_request: Request, max_body_bytes: int) -> bytes:
    """Read all of a body; one that is refused is read to its end unkept, so the connection stays usable.

    Args:
        http_request: whose body has not been read yet.
        max_body_bytes: as it comes, and again as it is when it is unpacked.

    Raises:
        InvalidInput: the body is longer than the limit, or is not what its content encoding says.
        NotSupported: a content encoding that is not there.
    """
    name = _encoding(http_request)
    reader = _Reader(name if name in ENCODINGS else "", max_body_bytes)
    try:
        async for chunk in http_request.stream():
            await reader.take(chunk)
    except ClientDisconnect as problem:
        raise InvalidInput("the connection closed before the whole body came.") from problem
    if name not in _READABLE:
        raise NotSupported(f"Content-Encoding '{name[:80]}' is not supported; send {', '.join(ENCODINGS)} or identity.")
    return reader.body()


async def read_object(http_request: Request, max_body_bytes: int) -> dict[str, Any]:
    """Parse a body that may be empty; clients send no content type, so none is asked for. Raises `InvalidInput`."""
    body = await read_body(http_request, max_body_bytes)
    return object_from_json(body) if body.strip() else {}


def offered_encodings(http_request: Request) -> dict[str, str]:
    """What a refusal adds to say which encodings would have been read, where it came in another (RFC 7694)."""
    return {} if _encoding(http_request) in _READABLE else {"Accept-Encoding": ", ".join(ENCODINGS)}


def _encoding(http_request: Request) -> str:
    return http_request.headers.get("content-encoding", IDENTITY).strip().lower()


class _Reader:
    """The pieces of one body, and what is wrong with them."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._decompressor = Decompressor(encoding, max_bytes) if encoding else None
        self._max_bytes = max_bytes
        self._size = 0
        self._chunks: list[bytes] = []
        self._problem: InvalidInput | None = None

    async def take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._max_bytes:
            self._chunks.clear()
        elif self._decompressor is None or not chunk:
            self._chunks.append(chunk)
        elif self._problem is None:
            await self._unpack(self._decompressor, chunk)

    async def _unpack(self, decompressor: Decompressor, chunk: bytes) -> None:
        try:
            if len(chunk) < _THREAD_BYTES:
                self._chunks.append(decompressor.feed(chunk))
            else:
                self._chunks.append(await asyncio.to_thread(decompressor.feed, chunk))
        except InvalidInput as problem:
            self._problem = problem
            self._chunks.clear()

    def body(self) -> bytes:
        """All of it; raises what was wrong."""
        if self._size > self._max_bytes:
            raise InvalidInput(
                f"the request body has {self._size} bytes, {self._max_bytes} are allowed; "
                "--http-max-input-size raises the limit."
            )
        if self._problem is not None:
            raise self._problem
        if self._decompressor is not None and self._size:
            self._decompressor.finish()
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
