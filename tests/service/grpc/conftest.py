"""A real gRPC server, and clients of it, on the loop of the test, over a model that does what a test says."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc

from enginehouse.dtype import DTYPES
from enginehouse.errors import Cancelled, Error
from enginehouse.evidence import EngineRecord
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.grpc.listener import GrpcListener
from service.grpc.options import GrpcOptions
from service.request import Admitted, InferRequest, InferResponse, Parameter, Settle, Timings, WireTensor
from service.statistics.statistics import ModelStatistics
from tests.service.conftest import House

TIMINGS = Timings(0, 0, 0, 0, 0, 1)


@dataclass
class Asked:
    """A request that the model has, and what may be answered."""

    request: InferRequest
    settle: Settle
    is_cancelled: bool = False

    def cancel(self) -> None:
        if not self.is_cancelled:
            self.is_cancelled = True
            self.settle(Cancelled("the caller left."))

    def emit(self, *numbers: float) -> None:
        assert self.request.emit is not None
        self.request.emit(respond(self.request, *numbers))

    def answer(self, *numbers: float, **parameters: Parameter) -> None:
        self.settle(respond(self.request, *numbers, **parameters))


def respond(request: InferRequest, *numbers: float, **parameters: Parameter) -> InferResponse:
    array = np.array(numbers, np.float32)
    outputs = (WireTensor("y", DTYPES["FP32"], array.shape, array.tobytes()),) if numbers else ()
    return InferResponse(request.model_name, "1", request.id, outputs, TIMINGS, parameters)


class FakeModel:
    """Keeps what it is asked until the test answers; with `react` it answers by itself."""

    def __init__(self, name: str, is_decoupled: bool) -> None:
        self.name, self.version = name, "1"
        self.config = ModelConfig(name=name)
        self.config.model_transaction_policy.decoupled = is_decoupled
        self.statistics = ModelStatistics()
        self.degraded = self.note = self.absence = ""
        self.records: Sequence[EngineRecord] = ()
        self.labels: Mapping[str, Sequence[str]] = {}
        self.load_seconds = 0.0
        self.queue_depth = 0
        self.time_to_spare = math.inf
        self.asked: list[Asked] = []
        self.react: Callable[[Asked], object] = lambda asked: asked

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        asked = Asked(request, settle)
        self.asked.append(asked)
        self.react(asked)
        return asked

    def drain(self, on_drained: Callable[[], None]) -> None:
        on_drained()

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Served:
    """Two models, `plain` and `decoupled`, behind one listener."""

    plain: FakeModel
    decoupled: FakeModel
    port: int
    client: Any


Serve = Callable[..., Awaitable[Served]]


@dataclass
class _Open:
    listeners: list[GrpcListener] = field(default_factory=list)
    clients: list[Any] = field(default_factory=list)


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(max_in_flight=2)` starts a server with these options."""
    house = House(tmp_path)
    opened = _Open()

    async def start(**options: Any) -> Served:
        models = [FakeModel("plain", is_decoupled=False), FakeModel("decoupled", is_decoupled=True)]
        for model in models:
            house.registry.replace(model.name, [model])
        listener = GrpcListener(house.server, "127.0.0.1", 0, GrpcOptions(**options))
        await listener.start()
        opened.listeners.append(listener)
        opened.clients.append(triton_grpc.InferenceServerClient(f"127.0.0.1:{listener.port}"))
        return Served(models[0], models[1], listener.port, opened.clients[-1])

    yield start
    for client in opened.clients:
        await client.close()
    for listener in opened.listeners:
        await listener.stop(0)


def error_from(answer: InferResponse | Error) -> Error:
    assert isinstance(answer, Error)
    return answer
