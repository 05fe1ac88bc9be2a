"""The child's side of a Python model: loads `model.py`, runs what the server sends, and asks other models for it."""

import asyncio
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.processes.channel import Channel, Message, Words, words_from_error
from enginehouse.processes.python_host import WorkerHost, model_error
from enginehouse.python_model import (
    Arguments,
    Model,
    ModelError,
    Position,
    Request,
    Response,
    ResponseSender,
    connect,
)

_FOREIGN_MODULE = "triton_python_backend_utils"


def serve_python(channel: Channel, task: Words) -> None:
    """Load a model, and run its requests until the other side hangs up."""
    host = WorkerHost(channel)
    connect(host)
    try:
        model = load_model(Path(task["path"]))
        initialize = getattr(model, "initialize", None)
        if initialize is not None:
            initialize(Arguments(**task["arguments"]))
    except BaseException as problem:
        if not isinstance(problem, Error):
            traceback.print_exc()
        channel.send({"error": words_from_error(model_error(problem))})
        return
    channel.send({"ready": True})
    host.is_serving = True
    Runner(model, host, task["is_decoupled"]).run()
    finalize = getattr(model, "finalize", None)
    if finalize is not None:
        finalize()


def load_model(path: Path) -> Any:
    """Make the one model of a file.

    Raises:
        NotSupported: it is written against another server's module.
        InvalidInput: it holds no class with `execute`, or several.
    """
    # Its neighbours in the version directory can be imported.
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as problem:
        if problem.name != _FOREIGN_MODULE:
            raise
        raise NotSupported(
            f"{path.name} imports {_FOREIGN_MODULE}, which exists only inside Triton. "
            "Write the model against enginehouse.python_model."
        ) from problem
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == path.stem]
    kinds = [kind for kind in own if callable(getattr(kind, "execute", None))]
    models = [kind for kind in kinds if issubclass(kind, Model)] or kinds
    if len(models) != 1:
        found = ", ".join(kind.__name__ for kind in models) or "none"
        raise InvalidInput(f"{path.name} must hold one class with execute(requests); found {found}.")
    return models[0]()


class Runner:
    """Runs one batch after the other on the main thread of the process."""

    def __init__(self, model: Any, host: WorkerHost, is_decoupled: bool) -> None:
        self._model = model
        self._host = host
        self._is_decoupled = is_decoupled
        self._loop = asyncio.Runner()

    def run(self) -> None:
        """Work until the server hangs up."""
        while (work := self._host.batches.get()) is not None:
            if isinstance(work, int):
                self._fail([work], ModelError("the model let go of a request without a last response."))
            else:
                self._execute(work)
        self._loop.close()

    def _execute(self, message: Message) -> None:
        requests = list(_requests(message, self._host, self._is_decoupled))
        numbers = [request.number for request in requests]
        try:
            result = self._model.execute(requests)
            if inspect.iscoroutine(result):
                result = self._loop.run(result)
            responses = self._checked(result, len(requests))
        except (Exception, SystemExit) as problem:
            if not isinstance(problem, ModelError):
                traceback.print_exc()
            self._fail(numbers, problem)
            self._host.send([], has_executed=True)
            return
        self._host.send(list(zip(numbers, responses, strict=False)), has_executed=True)

    def _checked(self, result: Any, expected: int) -> Sequence[Response]:
        if self._is_decoupled:
            if result is not None:
                raise ModelError("a decoupled model answers through response_sender() and returns None.")
            return []
        if not isinstance(result, list | tuple) or len(result) != expected:
            found = f"{len(result)}" if isinstance(result, list | tuple) else f"a {type(result).__name__}"
            raise ModelError(
                f"execute returned {found} for {expected} requests; a list with a Response for each is due."
            )
        for response in result:
            if not isinstance(response, Response):
                raise ModelError(f"execute returned a {type(response).__name__} in its list; a Response is expected.")
        return result

    def _fail(self, numbers: Sequence[int], problem: BaseException) -> None:
        error = problem if isinstance(problem, ModelError) else ModelError(str(model_error(problem)))
        unanswered = [number for number in numbers if number in self._host.unanswered]
        self._host.send([(number, Response(error=error)) for number in unanswered])


def _requests(message: Message, host: WorkerHost, is_decoupled: bool) -> Iterator[Request]:
    tensors = iter(message.tensors)
    for words in message.words["execute"]:
        inputs = {name: next(tensors) for name in words["names"]}
        position = None if words["sequence"] is None else Position(*words["sequence"])
        yield Request(
            words["number"],
            inputs,
            tuple(words["outputs"]),
            words["id"],
            words["parameters"],
            position,
            words["seconds_left"],
            host,
            ResponseSender(words["number"], host) if is_decoupled else None,
        )
