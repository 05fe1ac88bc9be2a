"""What clients may set of traces and of the log while the server runs."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response

from enginehouse.errors import InvalidInput
from service.http.body import read_object
from service.http.render import JsonResponse, json_from_message
from service.server import InferenceServer

_LEVEL = "trace_level"


def add_observation(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    """Add trace settings, global and of each model, and log settings; each answer tells all of them."""

    @app.get("/v2/models/{model}/trace/setting", summary="Trace settings of a model", tags=["observation"])
    @app.get("/v2/trace/setting", summary="Trace settings", tags=["observation"])
    async def trace(model: str = "") -> Response:
        return _trace_answer(server, model, {})

    @app.post("/v2/models/{model}/trace/setting", summary="Change trace settings of a model", tags=["observation"])
    @app.post("/v2/trace/setting", summary="Change trace settings", tags=["observation"])
    async def set_trace(request: Request, model: str = "") -> Response:
        body = await read_object(request, max_body_bytes)
        return _trace_answer(server, model, {name: _values(name, value) for name, value in body.items()})

    @app.get("/v2/logging", summary="Settings of the log", tags=["observation"])
    async def log() -> Response:
        return _log_answer(server, {})

    @app.post("/v2/logging", summary="Change settings of the log", tags=["observation"])
    async def set_log(request: Request) -> Response:
        body = await read_object(request, max_body_bytes)
        return _log_answer(server, {name: _log_value(name, value) for name, value in body.items() if value is not None})


def _trace_answer(server: InferenceServer, model: str, changes: Mapping[str, list[str] | None]) -> Response:
    settings = json_from_message(server.trace_settings(model, changes))["settings"]
    lists: dict[str, list[str]] = {name: entry["value"] for name, entry in settings.items()}
    return JsonResponse({name: values if name == _LEVEL else values[0] for name, values in lists.items()})


def _log_answer(server: InferenceServer, changes: Mapping[str, bool | int | str]) -> Response:
    settings = json_from_message(server.log_settings(changes))["settings"]
    return JsonResponse({name: next(iter(entry.values())) for name, entry in settings.items()})


def _values(name: str, value: Any) -> list[str] | None:
    """One setting as a list of words; None goes back to what it was. Only the level has several."""
    if value is None:
        return None
    words = value if isinstance(value, list) and name == _LEVEL else [value]
    if not all(isinstance(word, str) or type(word) is int for word in words):
        raise InvalidInput(f"trace setting '{name[:80]}' is {type(value).__name__}; a string is expected.")
    return [str(word) for word in words]


def _log_value(name: str, value: Any) -> bool | int | str:
    if not isinstance(value, bool | int | str):
        raise InvalidInput(
            f"log setting '{name[:80]}' is {type(value).__name__}; expected a string, a number or a boolean."
        )
    return value
