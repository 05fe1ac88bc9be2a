"""`POST …/generate` and `…/generate_stream`: flat JSON in; one JSON object out, or any number as server-sent events."""

from collections.abc import AsyncIterator

import orjson
from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from enginehouse.errors import Error, InvalidInput
from enginehouse.model_config import input_specs
from service.codecs.generate_codec import decode_generate, encode_generate
from service.codecs.timing import server_timing
from service.http.body import offered_encodings
from service.http.incoming import NOTHING_YET, Reader
from service.http.render import response_from_error
from service.http.waiting import Answers, leaving
from service.request import InferRequest, InferResponse
from service.server import InferenceServer

EVENT_STREAM = "text/event-stream; charset=utf-8"

# A comment, which readers of events leave out.
_NOTHING_YET = b":\n\n"


async def generate(
    server: InferenceServer, reader: Reader, http_request: Request, model: str, version: str
) -> Response:
    """Answer with exactly one object; a model that gives none or several is for `generate_stream`."""
    try:
        request = await _read(server, reader, http_request, model, version)
        answers = Answers(server, request)
        with leaving(http_request, answers.leave):
            first, second = await answers.next(), await answers.next()
        if isinstance(first, Error):
            return response_from_error(first)
        if first is None or second is not None:
            answers.leave()
            raise second if isinstance(second, Error) else _not_one()
        started = server.clock.now()
        body = encode_generate(first)
        seconds = server.clock.now() - started
        server.count_encode(first.model_name, first.model_version, seconds)
        headers = {"Server-Timing": server_timing(first.timings, seconds)}
        return Response(body, media_type="application/json", headers=headers)
    except Error as problem:
        return response_from_error(problem, offered_encodings(http_request))


async def generate_stream(
    server: InferenceServer, reader: Reader, http_request: Request, model: str, version: str
) -> Response:
    """Send each answer as an event when it comes. The status is that of the first; a later error is an event too."""
    try:
        request = await _read(server, reader, http_request, model, version)
        answers = Answers(server, request)
        with leaving(http_request, answers.leave):
            first = await answers.next()
        if isinstance(first, Error):
            return response_from_error(first)
        return _EventStream(first, answers)
    except Error as problem:
        return response_from_error(problem, offered_encodings(http_request))


async def _read(
    server: InferenceServer, reader: Reader, http_request: Request, model: str, version: str
) -> InferRequest:
    specs = input_specs(server.model_config(model, version))
    request, _ = await reader.read(http_request, lambda body: (decode_generate(body, specs, model, version), None))
    return request


class _EventStream(StreamingResponse):
    """Sends answers until the last one; a caller that leaves takes its request along, whenever that is."""

    def __init__(self, first: InferResponse | None, answers: Answers) -> None:
        super().__init__(_events(first, answers), media_type=EVENT_STREAM, headers={"Cache-Control": "no-cache"})
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[NOTHING_YET] = _NOTHING_YET
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.leave()


async def _events(first: InferResponse | None, answers: Answers) -> AsyncIterator[bytes]:
    answer: InferResponse | Error | None = first
    while answer is not None:
        yield _event(answer)
        answer = await answers.next()


def _event(answer: InferResponse | Error) -> bytes:
    try:
        data = orjson.dumps({"error": str(answer)}) if isinstance(answer, Error) else encode_generate(answer)
    except Error as problem:
        data = orjson.dumps({"error": str(problem)})
    return b"data: " + data + b"\n\n"


def _not_one() -> InvalidInput:
    return InvalidInput(
        "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
        "number of responses."
    )
