"""One request of a stream and its responses."""

from typing import Protocol

from enginehouse.errors import Error, Overloaded
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.codecs import proto_codec
from service.codecs.proto_codec import ReplyForm
from service.request import Admitted, InferRequest, InferResponse, pace

FINAL = "triton_final_response"


class Stream(Protocol):
    """The call that a request came on."""

    def infer(self, request: InferRequest, exchange: "StreamExchange") -> Admitted | None:
        """Ask the server; the exchange is settled."""

    def encode(self, response: InferResponse, form: ReplyForm, is_final: bool) -> bytes:
        """Write a response as the stream's client wants it; raises `InvalidInput` if it does not fit its memory."""

    def is_full(self, more_bytes: int) -> bool:
        """Whether the client has so much to read already that more must not wait for it."""

    def put(self, data: bytes) -> None:
        """Send a response that is not its request's last."""

    def pace(self, exchange: "StreamExchange") -> None:
        """Let a model wait with its next response while the client has much to read; not all models can."""

    def end(self, exchange: "StreamExchange", failure: Error | None = None) -> None:
        """A request has its last response, which is sent when it is its turn."""


class StreamExchange:
    """One request of a stream and its responses.

    Attributes:
        size: bytes that it keeps: of the request, and then of the last response until that can be sent.
        has_turn: whether its answer waits for those of earlier requests.
        is_over: its last response is there, or nobody listens any more.
        last: that response, if there is anything to send.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        self.size = size
        self.has_turn = True
        self.is_over = False
        self.last: bytes | None = None
        self._stream = stream
        self._has_left = False
        self._is_settled = False
        self._admitted: Admitted | None = None
        self._form = ReplyForm()
        self._message = ModelInferRequest()

    def begin(self, request: InferRequest, form: ReplyForm, message: ModelInferRequest) -> None:
        self._form = form
        # What names the request; its tensors are kept no longer than the model needs them.
        self._message = ModelInferRequest(
            id=message.id, model_name=message.model_name, model_version=message.model_version
        )
        request.emit = self.emit
        admitted = self._stream.infer(request, self)
        if self._has_left and admitted is not None:
            admitted.cancel()
        elif not self._is_settled:
            self._admitted = admitted

    def emit(self, response: InferResponse) -> None:
        """Pass on a response before the last one."""
        if self.is_over:
            return
        try:
            data = self._stream.encode(response, self._form, is_final=False)
            if self._stream.is_full(len(data)):
                raise Overloaded("the client does not read its responses as fast as they come; the rest is left out.")
        except Error as problem:
            self.fail(problem, self._message)
            self.leave()
            return
        self._stream.put(data)
        self._stream.pace(self)

    def pace(self, is_behind: bool) -> None:
        """The client has much to read, or has read most of it."""
        pace(self._admitted, is_behind)

    def settle(self, result: InferResponse | Error) -> None:
        """Pass on the last response; one without outputs only to a client that asked for it."""
        # Each knows the other; without this, both would wait for the garbage collector.
        self._admitted, self._is_settled = None, True
        if self.is_over:
            return
        if isinstance(result, Error):
            self.fail(result, self._message)
            return
        try:
            if result.outputs or self._form.wants_empty_final:
                self.last = self._stream.encode(result, self._form, is_final=True)
        except Error as problem:
            self.fail(problem, self._message)
            return
        self.is_over = True
        self._stream.end(self)

    def fail(self, problem: Error, message: ModelInferRequest) -> None:
        """Say what went wrong, and with which request."""
        self.is_over = True
        blamed = ModelInferResponse(id=message.id, model_name=message.model_name, model_version=message.model_version)
        proto_codec.set_parameter(blamed.parameters, FINAL, True)
        self.last = ModelStreamInferResponse(error_message=str(problem), infer_response=blamed).SerializeToString()
        self._stream.end(self, problem)

    def leave(self) -> None:
        """Nobody listens any more."""
        self.is_over = self._has_left = True
        if self._admitted is not None:
            self._admitted.cancel()
