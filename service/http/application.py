"""The FastAPI application: the REST form of the inference protocol, the metrics, and `/docs`."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from enginehouse.errors import Error, InvalidInput
from service.http.infer import infer, read_body
from service.http.render import JsonResponse, error_response, json_from_message, response_from_error
from service.json_codec import object_from_json
from service.server import InferenceServer

_MESSAGES = {404: "Not Found", 405: "Method Not Allowed"}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "example": {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 4}]}
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_application(server: InferenceServer, render_metrics: Callable[[], str], max_body_bytes: int) -> FastAPI:
    """Build the application around a server; nothing is started."""
    app = FastAPI(title="enginehouse", version=server.server_metadata().version, openapi_url="/openapi.json")
    # Inference first: routes are tried in the order in which they were added.
    _add_inference(app, server, max_body_bytes)
    _add_health(app, server)
    _add_models(app, server)
    _add_repository(app, server, max_body_bytes)
    _add_metrics(app, render_metrics)
    app.add_exception_handler(Error, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)
    return app


def create_metrics_application(render_metrics: Callable[[], str]) -> FastAPI:
    """The small application behind the metrics port."""
    app = FastAPI(title="enginehouse metrics", docs_url=None, redoc_url=None, openapi_url=None)
    _add_metrics(app, render_metrics)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


def _add_health(app: FastAPI, server: InferenceServer) -> None:
    @app.get("/v2/health/live", summary="Is the process answering?", tags=["health"])
    async def live() -> Response:
        return JsonResponse({"live": True})

    @app.get("/v2/health/ready", summary="Can every model that was asked for be used?", tags=["health"])
    async def ready() -> Response:
        is_ready = server.is_ready()
        return JsonResponse({"live": True, "ready": is_ready}, status_code=200 if is_ready else 503)

    @app.get("/v2/models/{model}/ready", summary="Does a model answer?", tags=["health"])
    @app.get("/v2/models/{model}/versions/{version}/ready", summary="Does a version answer?", tags=["health"])
    async def model_ready(model: str, version: str = "") -> Response:
        is_ready = server.is_model_ready(model, version)
        return JsonResponse({"name": model, "ready": is_ready}, status_code=200 if is_ready else 503)


def _add_models(app: FastAPI, server: InferenceServer) -> None:
    @app.get("/v2", summary="Name, version and extensions of this server", tags=["models"])
    async def metadata() -> Response:
        return JsonResponse(json_from_message(server.server_metadata()))

    # Before the routes of single models, so that no model called "stats" can hide it.
    @app.get("/v2/models/stats", summary="Statistics of everything that answers", tags=["models"])
    async def all_statistics() -> Response:
        return JsonResponse(json_from_message(server.statistics("", "")))

    @app.get("/v2/models", summary="Names of the models that answer", tags=["models"])
    async def models() -> Response:
        return JsonResponse({"models": sorted({model.name for model in server.registry.served()})})

    @app.get("/v2/models/{model}/stats", summary="Statistics of a model", tags=["models"])
    @app.get("/v2/models/{model}/versions/{version}/stats", summary="Statistics of a version", tags=["models"])
    async def statistics(model: str, version: str = "") -> Response:
        return JsonResponse(json_from_message(server.statistics(model, version)))

    @app.get("/v2/models/{model}/config", summary="Complete configuration of a model", tags=["models"])
    @app.get(
        "/v2/models/{model}/versions/{version}/config", summary="Complete configuration of a version", tags=["models"]
    )
    async def config(model: str, version: str = "") -> Response:
        return JsonResponse(json_from_message(server.model_config(model, version)))

    @app.get("/v2/models/{model}", summary="Inputs and outputs of a model", tags=["models"])
    @app.get("/v2/models/{model}/versions/{version}", summary="Inputs and outputs of a version", tags=["models"])
    async def model_metadata(model: str, version: str = "") -> Response:
        return JsonResponse(json_from_message(server.model_metadata(model, version)))


def _add_inference(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    @app.post("/v2/models/{model}/infer", summary="Ask a model", openapi_extra=_INFER_BODY, tags=["inference"])
    @app.post(
        "/v2/models/{model}/versions/{version}/infer",
        summary="Ask a version",
        openapi_extra=_INFER_BODY,
        tags=["inference"],
    )
    async def model_infer(request: Request, model: str, version: str = "") -> Response:
        return await infer(server, request, model, version, max_body_bytes)


def _add_repository(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    @app.post(
        "/v2/repository/index", summary="Every version that was ever asked for, and its state", tags=["repository"]
    )
    async def index(request: Request) -> Response:
        body = await _optional_object(request, max_body_bytes)
        answer = json_from_message(server.repository_index(only_ready=bool(body.get("ready", False))))
        return JsonResponse([{key: value for key, value in row.items() if value} for row in answer["models"]])

    @app.post("/v2/repository/models/{model}/load", summary="Load or reload a model", tags=["repository"])
    async def load(request: Request, model: str) -> Response:
        parameters = (await _optional_object(request, max_body_bytes)).get("parameters", {})
        config = parameters.get("config", "") if isinstance(parameters, dict) else None
        if not isinstance(config, str):
            raise InvalidInput("'parameters' must be an object, and its 'config' a string of JSON.")
        await server.load(model, config, [key for key in parameters if key != "config"])
        return JsonResponse({})

    @app.post("/v2/repository/models/{model}/unload", summary="Unload a model", tags=["repository"])
    async def unload(request: Request, model: str) -> Response:
        await _optional_object(request, max_body_bytes)
        await server.unload(model)
        return JsonResponse({})


def _add_metrics(app: FastAPI, render_metrics: Callable[[], str]) -> None:
    @app.get("/metrics", summary="Everything Prometheus asks for", tags=["metrics"])
    async def metrics() -> Response:
        return Response(render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _optional_object(request: Request, max_body_bytes: int) -> dict[str, Any]:
    """Parse a body that may be empty; clients send no content type, so none is asked for."""
    body = await read_body(request, max_body_bytes)
    if not body.strip():
        return {}
    return object_from_json(body)


async def _answer_error(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Error)
    return response_from_error(problem)


async def _answer_http(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return error_response(problem.status_code, _MESSAGES.get(problem.status_code, str(problem.detail)))


async def _answer_unexpected(_request: Request, problem: Exception) -> Response:
    return error_response(500, f"internal error: {type(problem).__name__}: {problem}")
