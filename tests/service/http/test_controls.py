"""Memory that clients register, traces and the log over REST, with the field's asynchronous client."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from enginehouse.model_config import config_from_text
from enginehouse.repository import Repository
from service.client_memory.shared_memory import SharedMemory
from service.clock import LoopClock
from service.controls import Controls
from service.http.application import create_application
from service.http.listener import HttpListener
from service.loading.assembly import Surroundings
from service.loading.lifecycle import Lifecycle
from service.loading.loader import VersionLoader
from service.loading.repositories import Repositories
from service.registry import READY, Registry
from service.request import InferRequest, InferResponse, Settle, WireTensor
from service.server import InferenceServer, identity
from service.tracing.log_settings import LogSettings
from service.tracing.trace import Tracer
from service.tracing.trace_settings import TraceSettings
from tests.service.http.conftest import TIMINGS, ScriptedModel

CONFIG = """
max_batch_size: 0
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


def double(request: InferRequest, settle: Settle) -> None:
    (wire,) = request.inputs
    data = (np.frombuffer(wire.data, np.float32) * 2).tobytes()
    settle(InferResponse("double", "1", request.id, (WireTensor("OUTPUT0", wire.dtype, (4,), data),), TIMINGS))


@dataclass
class House:
    client: triton_http.InferenceServerClient
    plain: httpx.AsyncClient


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    registry = Registry()
    clock = LoopClock(asyncio.get_running_loop())
    loader = VersionLoader(Repositories([Repository(tmp_path)]), lambda *_: None)
    tracer = Tracer(TraceSettings(trace_file=str(tmp_path / "trace.json"), trace_rate=7), clock.now)
    controls = Controls(SharedMemory(is_allowed=True), tracer, LogSettings(logging.getLogger("tests.controls")))
    server = InferenceServer(
        registry,
        Lifecycle(registry, loader, Surroundings(clock), 1),
        clock,
        identity("test"),
        is_strict=True,
        may_load=False,
        controls=controls,
    )
    registry.replace("double", [ScriptedModel(config_from_text(CONFIG, "double", "test"), double, "double")])
    registry.set_state("double", 1, READY)
    listener = HttpListener(create_application(server, str, 100_000), "127.0.0.1", 0, grace_seconds=1)
    listener.start()
    address = f"127.0.0.1:{listener.port}"
    async with (
        triton_http.InferenceServerClient(address) as client,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as plain,
    ):
        yield House(client, plain)
    await listener.stop()
    controls.close()


@pytest.fixture
def region() -> Iterator[Path]:
    path = Path(f"/dev/shm/rest-test-{os.getpid()}")
    path.write_bytes(np.arange(8, dtype=np.float32).tobytes())
    yield path
    path.unlink(missing_ok=True)


async def test_regions_are_registered_told_and_forgotten(house: House, region: Path) -> None:
    await house.client.register_system_shared_memory("mine", f"/{region.name}", 32)
    status = await house.client.get_system_shared_memory_status()
    assert status == [{"name": "mine", "key": f"/{region.name}", "offset": 0, "byte_size": 32}]
    assert await house.client.get_system_shared_memory_status("mine") == status
    with pytest.raises(InferenceServerException):
        await house.client.register_system_shared_memory("mine", f"/{region.name}", 32)
    await house.client.unregister_system_shared_memory("mine")
    assert await house.client.get_system_shared_memory_status() == []
    await house.client.register_system_shared_memory("a", f"/{region.name}", 8, offset=4)
    await house.client.register_system_shared_memory("b", f"/{region.name}", 8)
    await house.client.unregister_system_shared_memory()
    assert await house.client.get_system_shared_memory_status() == []


async def test_tensors_are_read_from_and_written_to_a_clients_memory(house: House, region: Path) -> None:
    await house.client.register_system_shared_memory("mine", f"/{region.name}", 32)
    tensor = triton_http.InferInput("INPUT0", [4], "FP32")
    tensor.set_shared_memory("mine", 16)
    wanted = triton_http.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory("mine", 16, offset=16)
    answer = await house.client.infer("double", [tensor], outputs=[wanted])
    output = answer.get_output("OUTPUT0")
    assert (output["datatype"], output["shape"]) == ("FP32", [4])
    assert "data" not in output
    assert "parameters" not in output
    assert np.frombuffer(region.read_bytes(), np.float32).tolist() == [0, 1, 2, 3, 0, 2, 4, 6]


@pytest.mark.parametrize(
    ("byte_size", "offset", "message"),
    [(16, 20, "mine"), (64, 0, "mine"), (8, 16, "should be at least 16 bytes")],
)
async def test_an_output_that_does_not_fit_is_refused_and_nothing_is_overwritten(
    house: House, region: Path, byte_size: int, offset: int, message: str
) -> None:
    await house.client.register_system_shared_memory("mine", f"/{region.name}", 32)
    tensor = triton_http.InferInput("INPUT0", [4], "FP32")
    tensor.set_data_from_numpy(np.ones(4, np.float32))
    wanted = triton_http.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory("mine", byte_size, offset=offset)
    before = region.read_bytes()
    with pytest.raises(InferenceServerException, match=message) as refusal:
        await house.client.infer("double", [tensor], outputs=[wanted])
    assert refusal.value.status() == "400"
    assert region.read_bytes() == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"byte_size": 4}, "Shared memory register request has no 'key' field"),
        ({"key": "/x"}, "has no 'byte_size' field"),
        ({"key": 7, "byte_size": 4}, "'key' of the register request is int"),
        ({"key": "/x", "byte_size": "4"}, "'byte_size' of the register request is str"),
        ({"key": "/x", "byte_size": True}, "'byte_size' of the register request is bool"),
        ({"key": "/x", "byte_size": 4, "offset": -1}, "'offset' of the register request is -1"),
        ({"key": "/x", "byte_size": 2**80}, "'byte_size' of the register request is"),
        ({"key": "/nothing-there", "byte_size": 4}, ""),
        ([], "an object is expected"),
    ],
)
async def test_a_malformed_register_request_is_400(house: House, body: object, message: str) -> None:
    answer = await house.plain.post("/v2/systemsharedmemory/region/r/register", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"byte_size": 4, "device_id": 0}, "has no 'raw_handle' field"),
        ({"raw_handle": "abc", "byte_size": 4, "device_id": 0}, "'raw_handle' of the register request is str"),
        ({"raw_handle": {}, "byte_size": 4, "device_id": 0}, "has no 'b64' field"),
        ({"raw_handle": {"b64": "?"}, "byte_size": 4, "device_id": 0}, "must be a valid base64"),
        ({"raw_handle": {"b64": ""}, "byte_size": 4, "device_id": -1}, "'device_id' of the register request is -1"),
    ],
)
async def test_a_malformed_cuda_register_request_is_400(house: House, body: object, message: str) -> None:
    answer = await house.plain.post("/v2/cudasharedmemory/region/r/register", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


async def test_memory_of_a_gpu_is_told_and_forgotten_where_there_is_none(house: House) -> None:
    assert await house.client.get_cuda_shared_memory_status() == []
    await house.client.unregister_cuda_shared_memory()
    answer = await house.plain.get("/v2/cudasharedmemory/region/r/status")
    assert answer.status_code == 404
    handle = {"raw_handle": {"b64": "AAAA"}, "byte_size": 4, "device_id": 0}
    answer = await house.plain.post("/v2/cudasharedmemory/region/r/register", json=handle)
    assert answer.status_code in (400, 501)
    assert list(answer.json()) == ["error"]


async def test_trace_settings_are_told_and_changed_globally_and_of_a_model(house: House, tmp_path: Path) -> None:
    found = await house.client.get_trace_settings()
    assert found["trace_level"] == ["OFF"]
    assert (found["trace_rate"], found["trace_count"], found["trace_mode"]) == ("7", "-1", "triton")
    changed = await house.client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
    assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS"], "3")
    own = await house.client.update_trace_settings("double", {"trace_rate": 5})
    assert own["trace_rate"] == "5"
    assert (await house.client.get_trace_settings())["trace_rate"] == "3"
    again = await house.client.update_trace_settings("double", {"trace_rate": None})
    assert again["trace_rate"] == "3"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/trace/setting", {"trace_rate": {"a": 1}}, 400),
        ("/v2/trace/setting", {"trace_rate": "often"}, 400),
        ("/v2/trace/setting", {"nonsense": "1"}, 400),
        ("/v2/trace/setting", {"trace_file": "/tmp/elsewhere"}, 501),
        ("/v2/models/nobody/trace/setting", {}, 400),
        ("/v2/logging", {"log_info": "yes"}, 400),
        ("/v2/logging", {"log_info": [1]}, 400),
        ("/v2/logging", {"log_verbose_level": -1}, 400),
        ("/v2/logging", {"log_format": "mine"}, 400),
        ("/v2/logging", {"nonsense": 1}, 400),
        ("/v2/logging", {"log_file": "/tmp/elsewhere"}, 501),
        ("/v2/logging", [], 400),
        ("/v2/repository/index", {"ready": "no"}, 400),
    ],
)
async def test_a_setting_that_makes_no_sense_is_refused(house: House, path: str, body: Any, status: int) -> None:
    answer = await house.plain.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]


async def test_log_settings_are_told_and_changed(house: House) -> None:
    found = await house.client.get_log_settings()
    assert found["log_file"] == ""
    assert found["log_format"] == "default"
    changed = await house.client.update_log_settings(
        {"log_info": False, "log_verbose_level": 2, "log_format": "ISO8601", "log_error": None}
    )
    assert (changed["log_info"], changed["log_verbose_level"], changed["log_format"]) == (False, 2, "ISO8601")
    assert (await house.client.get_log_settings()) == changed
