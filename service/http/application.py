"""The FastAPI application: the REST form of the inference protocol, the metrics, and `/docs`."""

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from enginehouse.errors import Error
from service.codecs.forwarding import HeaderPattern
from service.http.body import offered_encodings
from service.http.documentation import add_documentation
from service.http.incoming import Reader
from service.http.render import error_response, response_from_error
from service.http.routes.client_memory import add_client_memory
from service.http.routes.inference import add_inference
from service.http.routes.models import add_health, add_models
from service.http.routes.observation import add_observation
from service.http.routes.repository import add_repository
from service.server import InferenceServer

_MESSAGES = {404: "Not Found", 405: "Method Not Allowed"}


def create_application(
    server: InferenceServer,
    render_metrics: Callable[[], str] | None,
    max_body_bytes: int,
    header_forward_pattern: str = "",
) -> FastAPI:
    """Build the application around a server; nothing is started, and without `render_metrics` there are no metrics.

    Raises:
        InvalidInput: the pattern of the headers that become parameters is no regular expression.
    """
    app = _application("enginehouse", server.server_metadata().version, "/openapi.json")
    reader = Reader(server.clock, max_body_bytes, HeaderPattern(header_forward_pattern))
    # Inference first: routes are tried in the order in which they were added.
    add_inference(app, server, reader)
    add_health(app, server)
    add_models(app, server)
    add_repository(app, server, max_body_bytes)
    add_client_memory(app, server, max_body_bytes)
    add_observation(app, server, max_body_bytes)
    if render_metrics is not None:
        _add_metrics(app, render_metrics)
    add_documentation(app)
    return app


def create_metrics_application(render_metrics: Callable[[], str]) -> FastAPI:
    """The small application behind the metrics port."""
    app = _application("enginehouse metrics", "0", None)
    _add_metrics(app, render_metrics)
    return app


def _application(title: str, version: str, schema_path: str | None) -> FastAPI:
    # The framework's own pages load their scripts from elsewhere; `documentation` has ours.
    app = FastAPI(
        title=title,
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=schema_path,
        # A path that is not there is 404 with a word, not a redirection that says nothing.
        redirect_slashes=False,
    )
    app.add_exception_handler(Error, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)
    return app


def _add_metrics(app: FastAPI, render_metrics: Callable[[], str]) -> None:
    @app.get("/metrics", summary="Everything Prometheus asks for", tags=["metrics"])
    async def metrics() -> Response:
        return Response(render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _answer_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Error)
    return response_from_error(problem, offered_encodings(request))


async def _answer_http(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return error_response(problem.status_code, _MESSAGES.get(problem.status_code, str(problem.detail)))


async def _answer_unexpected(_request: Request, problem: Exception) -> Response:
    return error_response(500, f"internal error: {type(problem).__name__}: {problem}")
