"""The model repository: its index, and models that come and go."""

from fastapi import FastAPI, Request, Response

from enginehouse.errors import InvalidInput, NotSupported
from service.http.body import read_object
from service.http.render import JsonResponse, done_response, json_from_message
from service.loading.load_order import load_parameters_from_json, unload_dependents_from_json
from service.server import InferenceServer


def add_repository(app: FastAPI, server: InferenceServer, max_body_bytes: int) -> None:
    """Add index, load and unload; the name of a repository may stand in front, and only the index ignores it."""

    @app.post("/v2/repository/{repository}/index", include_in_schema=False)
    @app.post(
        "/v2/repository/index", summary="Every version that was ever asked for, and its state", tags=["repository"]
    )
    async def index(request: Request) -> Response:
        body = await read_object(request, max_body_bytes)
        only_ready = body.get("ready", False)
        if not isinstance(only_ready, bool):
            raise InvalidInput(f"'ready' is {type(only_ready).__name__}; true or false is expected.")
        answer = json_from_message(server.repository_index(only_ready))
        return JsonResponse([{key: value for key, value in row.items() if value} for row in answer["models"]])

    @app.post("/v2/repository/models/{model}/load", summary="Load or reload a model", tags=["repository"])
    async def load(request: Request, model: str) -> Response:
        body = await read_object(request, max_body_bytes)
        await server.load(model, *load_parameters_from_json(body.get("parameters", {})))
        return done_response()

    @app.post("/v2/repository/models/{model}/unload", summary="Unload a model", tags=["repository"])
    async def unload(request: Request, model: str) -> Response:
        body = await read_object(request, max_body_bytes)
        await server.unload(model, unload_dependents_from_json(body.get("parameters", {})))
        return done_response()

    @app.post("/v2/repository/{repository}/models/{model}/load", include_in_schema=False)
    @app.post("/v2/repository/{repository}/models/{model}/unload", include_in_schema=False)
    async def named() -> Response:
        raise NotSupported("'repository_name' specification is not supported; leave it out of the address.")
