"""A listener in the loop of the test, before a model that does what the test says."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvloop

from enginehouse.dtype import DTYPES, bytes_from_array
from enginehouse.evidence import EngineRecord
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import Repository
from service.clock import LoopClock
from service.http.application import create_application
from service.http.listener import HttpListener
from service.loading.assembly import Surroundings
from service.loading.lifecycle import Lifecycle
from service.loading.loader import VersionLoader
from service.loading.repositories import Repositories
from service.registry import Registry
from service.request import Admitted, InferRequest, InferResponse, Parameter, Settle, Timings, WireTensor
from service.server import InferenceServer, identity
from service.statistics.statistics import ModelStatistics

CONFIG = """
max_batch_size: 0
input [ { name: "PROMPT" data_type: TYPE_STRING dims: [ 1 ] }, { name: "COUNT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
TIMINGS = Timings(0.001, 0.002, 0.0, 0.003, 0.0, 4)

Answer = Callable[[InferRequest, Settle], None]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that serves: others differ in what they do with connections that are lost or full."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class ScriptedModel:
    """Answers as a test says, and remembers what it was asked and how many callers left."""

    config: ModelConfig
    answer: Answer
    name: str = "talker"
    version: str = "1"
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    degraded: str = ""
    note: str = ""
    absence: str = ""
    records: Sequence[EngineRecord] = ()
    load_seconds: float = 0.0
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    queue_depth: int = 0
    time_to_spare: float = math.inf
    asked: list[InferRequest] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        self.asked.append(request)
        self.answer(request, settle)
        return self

    def cancel(self) -> None:
        self.left.set()

    def drain(self, on_drained: Callable[[], None]) -> None:
        on_drained()

    def abandon(self) -> None: ...

    def close(self) -> None: ...


def text_response(text: str, parameters: Mapping[str, Parameter] | None = None) -> InferResponse:
    dtype = DTYPES["BYTES"]
    wire = WireTensor("TEXT", dtype, (1,), bytes_from_array(np.array([text], dtype=object), dtype))
    return InferResponse("talker", "1", "", (wire,), TIMINGS, parameters or {})


END = InferResponse("talker", "1", "", (), TIMINGS)

Talk = Callable[..., ScriptedModel]


@dataclass
class House:
    """The server, what it serves, and a client of it."""

    registry: Registry
    server: InferenceServer
    port: int
    client: httpx.AsyncClient

    def serve(self, answer: Answer, is_decoupled: bool = False, config: str = CONFIG) -> ScriptedModel:
        parsed = config_from_text(config, "talker", "test")
        parsed.model_transaction_policy.decoupled = is_decoupled
        model = ScriptedModel(parsed, answer)
        self.registry.replace("talker", [model])
        return model

    async def ask(self, action: str, body: object, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/v2/models/talker/{action}", json=body, headers=names)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    registry = Registry()
    clock = LoopClock(asyncio.get_running_loop())
    loader = VersionLoader(Repositories([Repository(tmp_path)]), lambda *_: None)
    lifecycle = Lifecycle(registry, loader, Surroundings(clock), 1)
    server = InferenceServer(registry, lifecycle, clock, identity("test"), is_strict=True, may_load=False)
    app = create_application(server, str, 100_000, header_forward_pattern="^X-Trace|tenant")
    listener = HttpListener(app, "127.0.0.1", 0, grace_seconds=1)
    listener.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}", timeout=30) as client:
        yield House(registry, server, listener.port, client)
    await listener.stop()
