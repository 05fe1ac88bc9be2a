"""`POST …/infer` on raw bytes: the reference that a faster path is compared with."""

import asyncio

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Message

from enginehouse.errors import Error, InvalidInput, NotSupported
from service import json_codec
from service.http.render import response_from_error
from service.request import InferRequest, InferResponse
from service.server import InferenceServer

_HEADER_LENGTH = "inference-header-content-length"
_MAX_DIGITS = 18


async def infer(
    server: InferenceServer, http_request: Request, model: str, version: str, max_body_bytes: int
) -> Response:
    """Decode, wait for the one answer, encode. A caller that leaves takes its request out of the queue."""
    try:
        body = await read_body(http_request, max_body_bytes)
        received_at = server.clock.now()
        header_length = _header_length(http_request)
        request, form = json_codec.decode_request(body, header_length, model, version)
        request.received_at = received_at
        request.decoded_at = server.clock.now()
        result = await _answer(server, request, http_request)
        if isinstance(result, Error):
            return response_from_error(result)
        header, chunks = json_codec.encode_response(result, form)
    except Error as problem:
        return response_from_error(problem)
    if not chunks:
        return Response(header, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(header))}
    return Response(b"".join([header, *chunks]), media_type="application/octet-stream", headers=headers)


async def _answer(server: InferenceServer, request: InferRequest, http_request: Request) -> InferResponse | Error:
    """Wait for the one answer, or for the caller to leave, whichever comes first."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[InferResponse | Error] = loop.create_future()
    admitted = server.infer(request, lambda result: None if answer.done() else answer.set_result(result))
    if admitted is None:
        return await answer

    def leave(_: asyncio.Future[Message]) -> None:
        if not answer.done():
            admitted.cancel()

    # Behind its body a request has nothing more to say but that its connection is gone.
    gone = asyncio.ensure_future(http_request.receive())
    gone.add_done_callback(leave)
    try:
        return await answer
    except asyncio.CancelledError:
        admitted.cancel()
        raise
    finally:
        gone.remove_done_callback(leave)
        gone.cancel()


async def read_body(http_request: Request, max_body_bytes: int) -> bytes:
    """Read all of a body within the limit; a longer one is read to its end unkept, so the connection stays usable.

    Raises:
        InvalidInput: the body is longer than the limit, or in a content encoding.
    """
    encoding = http_request.headers.get("content-encoding", "identity")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in http_request.stream():
            size += len(chunk)
            if size <= max_body_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
    except ClientDisconnect as problem:
        raise InvalidInput("the connection closed before the whole body came.") from problem
    if encoding.lower() != "identity":
        raise NotSupported(f"Content-Encoding '{encoding}' is not supported; send the body as it is.")
    if size > max_body_bytes:
        raise InvalidInput(
            f"the request body has {size} bytes, {max_body_bytes} are allowed; --http-max-input-size raises the limit."
        )
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _header_length(http_request: Request) -> int | None:
    text = http_request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise InvalidInput(f"Inference-Header-Content-Length is '{text[:40]}'; a number of bytes is expected.")
    return int(text)
