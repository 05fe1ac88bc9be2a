"""`POST …/infer` on raw bytes: the reference that a faster path is compared with."""

import asyncio

from fastapi import Request, Response

from enginehouse.errors import Error
from service.codecs.compression import IDENTITY, accepted_encoding, compress
from service.codecs.json_codec import OutputForm
from service.codecs.timing import server_timing
from service.http.body import offered_encodings
from service.http.incoming import HEADER_LENGTH, Reader, header_length
from service.http.inference_body import body_from_response, refuse_decoupled, request_from_body
from service.http.render import response_from_error
from service.http.waiting import answer_of
from service.request import InferRequest, InferResponse
from service.server import InferenceServer

# A smaller answer is packed where it is: a thread would take longer than the work.
_THREAD_BYTES = 1 << 14


async def infer(server: InferenceServer, reader: Reader, http_request: Request, model: str, version: str) -> Response:
    """Decode, wait for the one answer, encode. A caller that leaves takes its request out of the queue."""

    def decode(body: bytes) -> tuple[InferRequest, OutputForm]:
        length = header_length(http_request.headers.get(HEADER_LENGTH))
        return request_from_body(server, body, length, model, version)

    try:
        request, form = await reader.read(http_request, decode)
        refuse_decoupled(server, model, version)
        result = await answer_of(server, request, http_request)
        if isinstance(result, Error):
            return response_from_error(result)
        return await _response(server, result, form, http_request.headers.get("accept-encoding", ""))
    except Error as problem:
        return response_from_error(problem, offered_encodings(http_request))


async def _response(server: InferenceServer, result: InferResponse, form: OutputForm, accept_encoding: str) -> Response:
    started = server.clock.now()
    header, chunks = body_from_response(server, result, form)
    headers: dict[str, str] = {}
    media_type = "application/json"
    body = header
    if chunks:
        media_type = "application/octet-stream"
        headers["Inference-Header-Content-Length"] = str(len(header))
        body = b"".join([header, *chunks])
    encoding = accepted_encoding(accept_encoding) if accept_encoding else IDENTITY
    if encoding != IDENTITY:
        headers["Content-Encoding"] = encoding
        body = await _packed(body, encoding)
    seconds = server.clock.now() - started
    server.count_encode(result.model_name, result.model_version, seconds)
    headers["Server-Timing"] = server_timing(result.timings, seconds)
    return Response(body, media_type=media_type, headers=headers)


async def _packed(body: bytes, encoding: str) -> bytes:
    if len(body) < _THREAD_BYTES:
        return compress(body, encoding)
    return await asyncio.to_thread(compress, body, encoding)
