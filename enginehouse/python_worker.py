"""The child's side of a Python model: loads `model.py`, runs what the server sends, and asks other models for it."""

import asyncio
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from enginehouse.channel import Channel, Message, Words, error_from_words, words_from_error
from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed, Error, InvalidInput, NotSupported
from enginehouse.python_model import (
    Arguments,
    Call,
    InvalidRequest,
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
        channel.send({"error": words_from_error(_model_error(problem))})
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


class WorkerHost:
    """Reads what the server says, on a thread of its own, and hands it to whoever waits for it."""

    def __init__(self, channel: Channel) -> None:
        self.batches: SimpleQueue[Message | int | None] = SimpleQueue()
        self.unanswered: dict[int, bool] = {}
        self.is_serving = False
        self._channel = channel
        self._calls: dict[int, SimpleQueue[Message | None]] = {}
        self._call_numbers = count()
        Thread(target=self._read, name="reader", daemon=True).start()

    def call(self, call: Call) -> Iterator[Response]:
        """Ask now, although nobody may look at the answers yet."""
        if not self.is_serving:
            raise ModelError(f"model '{call.model}' cannot be asked before this one serves.")
        number = next(self._call_numbers)
        answers: SimpleQueue[Message | None] = SimpleQueue()
        self._calls[number] = answers
        position = call.sequence
        words: Words = {
            "call": number,
            "model": call.model,
            "version": call.version,
            "names": list(call.inputs),
            "outputs": list(call.outputs),
            "parameters": dict(call.parameters),
            "sequence": None if position is None else [position.id, position.is_start, position.is_end],
            "timeout_seconds": call.timeout_seconds,
            "on_behalf_of": call.on_behalf_of,
        }
        try:
            self._channel.send(words, [np.asarray(array) for array in call.inputs.values()])
        except InvalidInput as problem:
            del self._calls[number]
            raise ModelError(f"model '{call.model}' cannot be asked: {problem}") from problem
        return self._responses(number, answers)

    def is_cancelled(self, number: int) -> bool:
        return self.unanswered.get(number, True)

    def respond(self, number: int, response: Response | None, is_last: bool) -> None:
        if number in self.unanswered:
            self.send([(number, response or Response())], is_last=is_last, is_empty=response is None)

    def forget(self, number: int) -> None:
        # From a destructor, which may run in the middle of anything: the runner tells the caller.
        if number in self.unanswered:
            self.batches.put(number)

    def send(
        self, responses: Sequence[tuple[int, Response]], is_last: bool = True, is_empty: bool = False, **more: Any
    ) -> None:
        """Send responses; one that cannot be sent becomes an error that says why, and does not hurt the others."""
        try:
            forms = [_words_from_response(number, response) for number, response in responses]
            answers = [{**words, "is_last": is_last, "is_empty": is_empty} for words, _ in forms]
            self._channel.send({"answers": answers, **more}, [array for _, arrays in forms for array in arrays])
        except InvalidInput as problem:
            if len(responses) > 1:
                for one in responses:
                    self.send([one], is_last)
                self._channel.send({"answers": [], **more})
                return
            failed = Response(error=ModelError(f"a response of the model cannot be sent: {problem}"))
            self.send([(responses[0][0], failed)], is_last, **more)
        if is_last:
            for number, _ in responses:
                self.unanswered.pop(number, None)

    def _responses(self, number: int, answers: "SimpleQueue[Message | None]") -> Iterator[Response]:
        try:
            while True:
                message = answers.get()
                if message is None:
                    raise ModelError("the server ended before the other model answered.")
                if "error" in message.words:
                    raise ModelError(str(error_from_words(message.words["error"])))
                outputs = dict(zip(message.words["names"], message.tensors, strict=True))
                if not message.words["is_empty"]:
                    yield Response(outputs, parameters=message.words["parameters"])
                if message.words["is_last"]:
                    return
        finally:
            self._calls.pop(number, None)

    def _read(self) -> None:
        try:
            while True:
                self._take(self._channel.receive())
        except OSError:
            self.batches.put(None)
            for answers in list(self._calls.values()):
                answers.put(None)

    def _take(self, message: Message) -> None:
        # Whoever gets the tensors may keep them; the server gets its memory back.
        own = Message(message.words, [tensor.copy() for tensor in message.tensors], None)
        self._channel.give_back(message)
        words = own.words
        if "execute" in words:
            self.unanswered.update((request["number"], False) for request in words["execute"])
            self.batches.put(own)
        elif "cancel" in words and words["cancel"] in self.unanswered:
            self.unanswered[words["cancel"]] = True
        elif "answer_to" in words and words["answer_to"] in self._calls:
            self._calls[words["answer_to"]].put(own)


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
        error = problem if isinstance(problem, ModelError) else ModelError(str(_model_error(problem)))
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


def _words_from_response(number: int, response: Response) -> tuple[Words, list[Array]]:
    """Raises `InvalidInput` for what is not as a response should be."""
    if response.error is not None:
        problem = response.error if isinstance(response.error, ModelError) else ModelError(response.error)
        return {"number": number, "error": words_from_error(_model_error(problem))}, []
    try:
        words: Words = {"number": number, "names": list(response.outputs), "parameters": dict(response.parameters)}
        return words, [np.asarray(array) for array in response.outputs.values()]
    except (TypeError, ValueError, AttributeError) as problem:
        raise InvalidInput(f"outputs and parameters must be mappings, of arrays and of values: {problem}") from problem


def _model_error(problem: BaseException) -> Error:
    """What a client is told: the model's own words, or what it raised."""
    if isinstance(problem, Error):
        return problem
    if isinstance(problem, InvalidRequest):
        return InvalidInput(str(problem))
    if isinstance(problem, ModelError):
        return EngineFailed(str(problem))
    return EngineFailed(f"the model raised {type(problem).__name__}: {problem}")
