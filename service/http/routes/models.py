"""Health, and what the server says of itself and of its models."""

from fastapi import FastAPI, Response

from service.http.render import JsonResponse, json_from_message
from service.server import InferenceServer


def add_health(app: FastAPI, server: InferenceServer) -> None:
    """Add what probes ask."""

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


def add_models(app: FastAPI, server: InferenceServer) -> None:
    """Add what describes; a model called `stats` cannot hide the statistics of all."""

    @app.get("/v2", summary="Name, version and extensions of this server", tags=["models"])
    async def metadata() -> Response:
        return JsonResponse(json_from_message(server.server_metadata()))

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
