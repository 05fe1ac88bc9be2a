"""What a `model.py` in a model repository is written against. These names are stable.

    from enginehouse.python_model import Model, Request, Response

    class Scale(Model):
        def execute(self, requests: list[Request]) -> list[Response]:
            return [Response({"y": request.inputs["x"] * 2}) for request in requests]

A model runs in a process of its own, which calls `initialize` once, then `execute` for each batch of requests, always
from one thread, and at the end `finalize`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from enginehouse.dtype import Array

Parameter = str | bool | int | float


class ModelError(Exception):
    """Raised by a model: the request fails with these words, as a fault of the model (500, INTERNAL).

    Raised by `infer`: the other model did not answer, and says why.
    """


class InvalidRequest(ModelError):
    """Raised by a model: the request fails with these words, as a fault of its caller (400, INVALID_ARGUMENT)."""


@dataclass(slots=True, frozen=True)
class Arguments:
    """What a model is told before its first request.

    Attributes:
        directory: of the version, where `model.py` lies; its parent holds what all versions share.
        instance: which copy of the model this is, from 0.
        device: `cpu` or `gpu`, as the instance group asks.
        config: the whole model configuration, in its JSON form.
        parameters: of the configuration, as text.
    """

    model: str
    version: int
    directory: str
    instance: int
    device: str
    config: Mapping[str, Any]
    parameters: Mapping[str, str]


@dataclass(slots=True, frozen=True)
class Position:
    """Where a request stands in a sequence of requests."""

    id: int | str
    is_start: bool = False
    is_end: bool = False


@dataclass(slots=True, frozen=True)
class Response:
    """An answer: outputs by name, or an error.

    Attributes:
        outputs: those that were asked for must be there; text may be arrays of `str` or of `bytes`.
        error: what went wrong, in words or as an exception; None if nothing did.
        parameters: what the caller is told besides.
    """

    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: str | ModelError | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Call:
    """A question to another model of the server.

    Attributes:
        on_behalf_of: number of the request that it is asked for, whose deadline and priority it inherits.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    version: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    sequence: Position | None = None
    timeout_seconds: float | None = None
    on_behalf_of: int | None = None


class Host(Protocol):
    """What stands between a model and the server. The process of a model has one."""

    def call(self, call: Call) -> Iterator[Response]:
        """Ask another model; its responses as they come."""

    def is_cancelled(self, number: int) -> bool:
        """Whether nobody waits for the answer to a request any more."""

    def respond(self, number: int, response: Response | None, is_last: bool) -> None:
        """Send one of a request's responses; None for no more than the end of them."""

    def forget(self, number: int) -> None:
        """Nobody can answer a request any more."""


class Model:
    """What a `model.py` holds: one class like this; only `execute` is needed."""

    def initialize(self, arguments: Arguments) -> None:
        """Get ready; whatever this raises fails the load of the model."""

    def execute(self, requests: list["Request"]) -> list[Response] | None:
        """Answer each request, in order. A decoupled model answers through `response_sender` and returns None.

        What this raises fails every request of the batch; a `Response` with an error fails one. It may be a coroutine.
        """
        raise NotImplementedError

    def finalize(self) -> None:
        """Give back what `initialize` took, within two seconds."""


@dataclass(slots=True, frozen=True)
class Request:
    """One call from a client; with a batch dimension it may hold several rows.

    Attributes:
        number: tells requests of this process apart.
        inputs: by name; text is an array of `bytes`. They may be written to.
        outputs: names of the wanted outputs.
        seconds_left: until the answer is of no use any more; None for never.
    """

    number: int
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    id: str
    parameters: Mapping[str, Parameter]
    sequence: Position | None
    seconds_left: float | None
    host: Host = field(repr=False)
    sender: "ResponseSender | None" = field(repr=False)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.host.is_cancelled(self.number)

    def response_sender(self) -> "ResponseSender":
        """The way to answer a request of a decoupled model; may be kept, and used from any thread."""
        if self.sender is None:
            raise ModelError("only a decoupled model has response senders; its model_transaction_policy says so.")
        return self.sender

    def infer(self, model: str, inputs: Mapping[str, Array], **options: Any) -> Mapping[str, Array]:
        """As `infer`, within this request's deadline and with its priority."""
        return only_outputs(model, self.host.call(Call(model, inputs, **options, on_behalf_of=self.number)))


class ResponseSender:
    """Sends any number of responses to one request of a decoupled model, and says which one is the last.

    A request whose sender nobody keeps any more is answered with an error.
    """

    def __init__(self, number: int, host: Host) -> None:
        self._number = number
        self._host = host
        self._is_over = False

    def send(self, response: Response, is_last: bool = False) -> None:
        """Send a response now; an error is the last one. Raises `ModelError` after the last one."""
        self._respond(response, is_last or response.error is not None)

    def finish(self) -> None:
        """Say that there are no more responses; raises `ModelError` if that was said already."""
        self._respond(None, is_last=True)

    def _respond(self, response: Response | None, is_last: bool) -> None:
        if self._is_over:
            raise ModelError("the last response to this request was sent already.")
        self._is_over = is_last
        self._host.respond(self._number, response, is_last)

    def __del__(self) -> None:
        if not self._is_over:
            self._host.forget(self._number)


_host: Host | None = None


def connect(host: Host) -> None:
    """Let `infer` reach the server; the process of a model does this before it loads the model."""
    global _host
    _host = host


def infer(
    model: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str] = (),
    version: str = "",
    parameters: Mapping[str, Parameter] | None = None,
    sequence: Position | None = None,
    timeout_seconds: float | None = None,
) -> Mapping[str, Array]:
    """Ask another model of the server, and wait for its one answer; may be called from any thread.

    Args:
        model: its name; a model of one instance that asks itself waits for ever.
        inputs: by name.
        outputs: names of the wanted ones; all if empty.
        version: of the model; the newest that is ready if empty.
        parameters: as a client would send them.
        sequence: where this question stands in a sequence of them.
        timeout_seconds: after which the answer is of no use.

    Raises:
        ModelError: the model refused or failed, or gave several answers (`infer_stream` takes those).
    """
    call = Call(model, inputs, outputs, version, parameters or {}, sequence, timeout_seconds)
    return only_outputs(model, _connected().call(call))


def infer_stream(model: str, inputs: Mapping[str, Array], **options: Any) -> Iterator[Mapping[str, Array]]:
    """Ask a model that gives any number of answers; the options are those of `infer`."""
    for response in _connected().call(Call(model, inputs, **options)):
        yield response.outputs


def only_outputs(model: str, responses: Iterator[Response]) -> Mapping[str, Array]:
    """The outputs of the one response; raises `ModelError` if there is another number of them."""
    answers = list(islice(responses, 2))
    if len(answers) != 1:
        found = "more than one response" if answers else "no response"
        raise ModelError(f"model '{model}' gave {found}, one was expected; use infer_stream.")
    return answers[0].outputs


def _connected() -> Host:
    if _host is None:
        raise ModelError("infer works in a model that a server runs; no server is here.")
    return _host
