"""Ask a model."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from service.http.generate import generate, generate_stream
from service.http.incoming import Reader
from service.http.infer import infer
from service.server import InferenceServer

_INPUT = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 4}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"example": {"inputs": [_INPUT]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_GENERATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"example": {"text_input": "Hello", "parameters": {"temperature": 0}}}},
    }
}

_Answer = Callable[[InferenceServer, Reader, Request, str, str], Awaitable[Response]]


def add_inference(app: FastAPI, server: InferenceServer, reader: Reader) -> None:
    """Add the three ways to ask, of a model and of one of its versions."""
    _add(app, server, reader, "infer", infer, "Ask", _INFER_BODY)
    _add(app, server, reader, "generate", generate, "Ask with flat JSON", _GENERATE_BODY)
    _add(app, server, reader, "generate_stream", generate_stream, "Ask for server-sent events", _GENERATE_BODY)


def _add(
    app: FastAPI,
    server: InferenceServer,
    reader: Reader,
    action: str,
    answer: _Answer,
    summary: str,
    body: dict[str, Any],
) -> None:
    async def model(request: Request, model: str) -> Response:
        return await answer(server, reader, request, model, "")

    async def version(request: Request, model: str, version: str) -> Response:
        return await answer(server, reader, request, model, version)

    for path, endpoint, what in (("", model, "a model"), ("/versions/{version}", version, "a version")):
        app.post(
            f"/v2/models/{{model}}{path}/{action}",
            summary=f"{summary}: {what}",
            operation_id=f"{action}_{endpoint.__name__}",
            openapi_extra=body,
            tags=["inference"],
        )(endpoint)
