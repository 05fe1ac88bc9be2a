"""Memory that clients register: of the system, and of a GPU."""

import base64
import binascii
from enum import Enum
from typing import Any

from fastapi import FastAPI, Request, Response

from enginehouse.errors import InvalidInput
from service.http.body import read_object
from service.http.render import JsonResponse, done_response, json_from_message
from service.server import InferenceServer

_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
_TAGS: list[str | Enum] = ["shared memory"]


def add_client_memory(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    """Add status, register and unregister of both kinds; without a name the first and the last mean every region."""
    _add_system(app, server, max_body_bytes)
    _add_cuda(app, server, max_body_bytes)


def _add_system(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    @app.get(f"{_SYSTEM}/status", summary="All registered system shared memory", tags=_TAGS)
    @app.get(f"{_SYSTEM}/region/{{region}}/status", summary="One region of system shared memory", tags=_TAGS)
    async def system_status(region: str = "") -> Response:
        answer = json_from_message(server.system_shared_memory_status(region))
        return JsonResponse(list(answer["regions"].values()))

    @app.post(f"{_SYSTEM}/region/{{region}}/register", summary="Register system shared memory", tags=_TAGS)
    async def system_register(request: Request, region: str) -> Response:
        body = await read_object(request, max_body_bytes)
        key = _field(body, "key", str)
        offset = _number({"offset": 0, **body}, "offset")
        server.register_system_shared_memory(region, key, offset, _number(body, "byte_size"))
        return done_response()

    @app.post(f"{_SYSTEM}/unregister", summary="Forget all system shared memory", tags=_TAGS)
    @app.post(f"{_SYSTEM}/region/{{region}}/unregister", summary="Forget one region", tags=_TAGS)
    async def system_unregister(request: Request, region: str = "") -> Response:
        await read_object(request, max_body_bytes)
        server.unregister_system_shared_memory(region)
        return done_response()


def _add_cuda(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    @app.get(f"{_CUDA}/status", summary="All registered memory of GPUs", tags=_TAGS)
    @app.get(f"{_CUDA}/region/{{region}}/status", summary="One region of a GPU's memory", tags=_TAGS)
    async def cuda_status(region: str = "") -> Response:
        answer = json_from_message(server.cuda_shared_memory_status(region))
        return JsonResponse(list(answer["regions"].values()))

    @app.post(f"{_CUDA}/region/{{region}}/register", summary="Register memory of a GPU", tags=_TAGS)
    async def cuda_register(request: Request, region: str) -> Response:
        body = await read_object(request, max_body_bytes)
        handle = _handle(_field(_field(body, "raw_handle", dict), "b64", str))
        device, byte_size = _number(body, "device_id"), _number(body, "byte_size")
        server.register_cuda_shared_memory(region, handle, device, byte_size)
        return done_response()

    @app.post(f"{_CUDA}/unregister", summary="Forget all memory of GPUs", tags=_TAGS)
    @app.post(f"{_CUDA}/region/{{region}}/unregister", summary="Forget one region", tags=_TAGS)
    async def cuda_unregister(request: Request, region: str = "") -> Response:
        await read_object(request, max_body_bytes)
        server.unregister_cuda_shared_memory(region)
        return done_response()


def _field(body: dict[str, Any], name: str, kind: type) -> Any:
    """One field of a register request; raises `InvalidInput` if it is not there or not of its kind."""
    if name not in body:
        raise InvalidInput(f"Shared memory register request has no '{name}' field; expected {kind.__name__}.")
    value = body[name]
    if type(value) is not kind:
        raise InvalidInput(f"'{name}' of the register request is {type(value).__name__}; {kind.__name__} is expected.")
    return value


def _number(body: dict[str, Any], name: str) -> int:
    value: int = _field(body, name, int)
    if not 0 <= value < 2**63:
        raise InvalidInput(f"'{name}' of the register request is {value}; a number from 0 to 2^63 - 1 is expected.")
    return value


def _handle(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise InvalidInput(f"'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t: {problem}.") from problem
