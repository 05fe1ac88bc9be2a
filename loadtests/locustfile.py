"""Load on a running server with real handwritten digits: REST with JSON, REST with binary tensors, and gRPC.

locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --grpc-host 127.0.0.1:8001
"""

# Locust's classes and decorators are untyped to mypy, which skips the library.
# mypy: disable-error-code="misc, untyped-decorator"

import itertools
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.experimental.gevent
import numpy as np
import orjson
from locust import FastHttpUser, User, constant_throughput, events, task
from numpy.typing import NDArray

from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "digits.npz"
CLASSES = 10
INPUT, OUTPUT = "pixels", "logits"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"

Pixels = NDArray[np.float32]


class WrongAnswer(Exception):
    """The server said yes and sent something that is not an answer to what was asked."""


class Refused(Exception):
    """The server answered a gRPC call with an error."""


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    parser.add_argument("--model", env_var="LOADTEST_MODEL", default="digits", help="name of the model to ask")
    parser.add_argument(
        "--grpc-host", env_var="LOADTEST_GRPC_HOST", default="127.0.0.1:8001", help="host:port of gRPC, without TLS"
    )
    parser.add_argument(
        "--rate", env_var="LOADTEST_RATE", type=float, default=10.0, help="requests per second that each user sends"
    )
    parser.add_argument("--rows", env_var="LOADTEST_ROWS", type=int, default=1, help="digits in one request")
    parser.add_argument("--digits", env_var="LOADTEST_DIGITS", default=str(DIGITS), help=".npz that holds test/pixels")


@events.init.add_listener
def let_grpc_yield(**_: Any) -> None:
    """Without this, one gRPC call blocks every other user of the process."""
    grpc.experimental.gevent.init_gevent()


@events.test_start.add_listener
def read_digits(environment: Any, **_: Any) -> None:
    options: Namespace = environment.parsed_options
    with np.load(options.digits, allow_pickle=False) as file:
        environment.digits = file["test/pixels"].astype(np.float32)


class _Digits(User):
    """Sends at a constant rate, as long as answers come faster than that, and takes the digits in turn."""

    abstract = True

    def on_start(self) -> None:
        self._batches = batches(self.environment.digits, self.options.rows)

    @property
    def options(self) -> Namespace:
        return cast(Namespace, self.environment.parsed_options)

    def wait_time(self) -> float:
        return cast(float, constant_throughput(self.options.rate)(self))

    def next_pixels(self) -> Pixels:
        return next(self._batches)


class _Rest(_Digits, FastHttpUser):
    """Sends what `encode` makes of the digits, and reads the answer with `decode`."""

    abstract = True
    kind = ""

    @task
    def infer(self) -> None:
        pixels = self.next_pixels()
        body, headers = self.encode(pixels)
        path = f"/v2/models/{self.options.model}/infer"
        with self.client.post(path, name=self.kind, data=body, headers=headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text}")
                return
            try:
                check_logits(self.decode(response), pixels)
            except (WrongAnswer, ValueError, KeyError, TypeError) as problem:
                response.failure(f"{type(problem).__name__}: {problem}")

    def encode(self, pixels: Pixels) -> tuple[bytes, dict[str, str]]:
        raise NotImplementedError

    def decode(self, response: Any) -> Pixels:
        raise NotImplementedError


class RestJson(_Rest):
    """REST with every number written out."""

    kind = "json"

    def encode(self, pixels: Pixels) -> tuple[bytes, dict[str, str]]:
        tensor = {"name": INPUT, "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
        return orjson.dumps({"inputs": [tensor]}), {"Content-Type": "application/json"}

    def decode(self, response: Any) -> Pixels:
        return logits_from_json(response.content)


class RestBinary(_Rest):
    """REST with the binary tensor extension, both ways."""

    kind = "binary"

    def encode(self, pixels: Pixels) -> tuple[bytes, dict[str, str]]:
        size = {"binary_data_size": pixels.nbytes}
        tensor = {"name": INPUT, "datatype": "FP32", "shape": list(pixels.shape), "parameters": size}
        header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
        headers = {_HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        return header + pixels.tobytes(), headers

    def decode(self, response: Any) -> Pixels:
        return logits_from_binary(response.content, int(response.headers[_HEADER_LENGTH]))


class Grpc(_Digits):
    """gRPC with raw tensors, one channel for each user."""

    def on_start(self) -> None:
        super().on_start()
        # Channels with equal options share one connection; a load balancer should see every user.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(self.options.grpc_host, options)
        self._infer = self._channel.unary_unary(
            _METHOD,
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )

    def on_stop(self) -> None:
        self._channel.close()

    @task
    def infer(self) -> None:
        pixels = self.next_pixels()
        tensor = ModelInferRequest.InferInputTensor(name=INPUT, datatype="FP32", shape=pixels.shape)
        request = ModelInferRequest(
            model_name=self.options.model, inputs=[tensor], raw_input_contents=[pixels.tobytes()]
        )
        size = 0
        problem: Exception | None = None
        started = time.perf_counter()
        try:
            response = self._infer(request)
            size = response.ByteSize()
            check_logits(logits_from_message(response), pixels)
        except grpc.RpcError as refusal:
            problem = Refused(f"{refusal.code().name}: {refusal.details()}")
        except (WrongAnswer, ValueError) as wrong:
            problem = wrong
        self.environment.events.request.fire(
            request_type="GRPC",
            name="grpc",
            response_time=1000 * (time.perf_counter() - started),
            response_length=size,
            exception=problem,
            context=self.context(),
        )


def batches(digits: Pixels, rows: int) -> Iterator[Pixels]:
    """Every digit in turn, `rows` at a time, without end."""
    for start in itertools.count(step=rows):
        yield digits.take(range(start, start + rows), axis=0, mode="wrap")


def logits_from_json(body: bytes) -> Pixels:
    output = _only_output(orjson.loads(body))
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def logits_from_binary(body: bytes, header_length: int) -> Pixels:
    output = _only_output(orjson.loads(body[:header_length]))
    size = output["parameters"]["binary_data_size"]
    if len(body) != header_length + size:
        raise WrongAnswer(f"the body has {len(body)} bytes, its header announces {header_length} + {size}")
    return np.frombuffer(body, dtype=np.float32, offset=header_length).reshape(output["shape"])


def logits_from_message(response: ModelInferResponse) -> Pixels:
    names = [output.name for output in response.outputs]
    if names != [OUTPUT] or len(response.raw_output_contents) != 1:
        raise WrongAnswer(f"outputs {names} with {len(response.raw_output_contents)} raw contents")
    return np.frombuffer(response.raw_output_contents[0], dtype=np.float32).reshape(list(response.outputs[0].shape))


def check_logits(logits: Pixels, pixels: Pixels) -> None:
    """Raise `WrongAnswer` unless there is one finite row of logits for each digit."""
    if logits.shape != (len(pixels), CLASSES):
        raise WrongAnswer(f"logits have shape {list(logits.shape)}, expected {[len(pixels), CLASSES]}")
    if not np.isfinite(logits).all():
        raise WrongAnswer("logits are not finite")


def _only_output(answer: dict[str, Any]) -> dict[str, Any]:
    names = [output["name"] for output in answer["outputs"]]
    if names != [OUTPUT]:
        raise WrongAnswer(f"outputs {names}, expected ['{OUTPUT}']")
    return cast(dict[str, Any], answer["outputs"][0])
