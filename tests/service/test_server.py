"""The one object behind every transport, over real versions: serve, reload, degrade, recover, unload."""

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.errors import Cancelled, Error, InvalidInput, NotFound, NotReady, NotSupported
from enginehouse.repository import Repository
from service.clock import LoopClock
from service.lifecycle import Lifecycle, load_all
from service.loader import VersionLoader
from service.metrics import ServerMetrics
from service.queue import Pending
from service.registry import LOADING, READY, UNAVAILABLE, Registry
from service.request import InferRequest, InferResponse
from service.server import InferenceServer, identity
from tests.service.conftest import make_request, publish


class House:
    """A server over a repository in a temporary directory, on the loop of the test."""

    def __init__(self, root: Path, is_strict: bool = True, may_load: bool = True) -> None:
        self.root = root
        self.registry = Registry()
        self.metrics = ServerMetrics(self.registry)
        clock = LoopClock(asyncio.get_running_loop())
        self.loader = VersionLoader(Repository(root), self.metrics.count_golden_failure)
        self.lifecycle = Lifecycle(self.registry, self.loader, clock, 30)
        self.server = InferenceServer(self.registry, self.lifecycle, clock, identity("test"), is_strict, may_load)

    async def factor(self, version: str = "", name: str = "m") -> float:
        """Ask for one row of ones: the answer tells which engine gave it."""
        answer = await self.ask(version, name)
        if isinstance(answer, Error):
            raise answer
        return float(np.frombuffer(answer.outputs[0].data, np.float32)[0])

    def ask(self, version: str = "", name: str = "m") -> "asyncio.Future[InferResponse | Error]":
        request = InferRequest(name, version, make_request([1.0]).inputs)
        future: asyncio.Future[InferResponse | Error] = asyncio.get_running_loop().create_future()
        self.server.infer(request, future.set_result)
        return future

    def index(self, name: str = "m") -> dict[str, tuple[str, str]]:
        rows = self.server.repository_index(only_ready=False).models
        return {row.version: (row.state, row.reason) for row in rows if row.name == name}

    def metric(self, name: str, version: int) -> int:
        prefix = f'{name}{{model="m",version="{version}"}} '
        (line,) = [line for line in self.metrics.render().splitlines() if line.startswith(prefix)]
        return int(line.removeprefix(prefix))

    def configure(self, text: str, name: str = "m") -> None:
        (self.root / name / "config.pbtxt").write_text(text)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.lifecycle.unload_all()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("m-")]


async def test_a_model_is_loaded_served_and_unloaded(house: House) -> None:
    publish(house.root)
    with pytest.raises(NotFound, match="Request for unknown model: 'm' is not found"):
        await house.factor()
    assert house.index() == {"": ("", "")}
    await house.server.load("m")
    assert await house.factor() == await house.factor("1") == 2
    assert house.index() == {"1": (READY, "")}
    assert house.server.is_model_ready("m", "")
    await house.server.unload("m")
    with pytest.raises(NotReady):
        await house.factor()
    assert house.index() == {"1": (UNAVAILABLE, "unloaded")}
    assert not house.server.is_model_ready("m", "")


async def test_unknown_names_are_not_found(house: House) -> None:
    publish(house.root)
    with pytest.raises(NotFound, match="failed to poll from model repository"):
        await house.server.load("nobody")
    with pytest.raises(NotFound, match="failed to unload 'm': the model is not loaded"):
        await house.server.unload("m")
    with pytest.raises(NotFound):
        house.server.is_model_ready("nobody", "")
    for odd in ("..", "", "n" * 5000, "a/b", "\0"):
        with pytest.raises(NotFound):
            await house.server.load(odd)
    assert house.server.repository_index(False).models[0].name == "m"


async def test_without_explicit_control_nobody_loads_or_unloads(tmp_path: Path) -> None:
    house = House(tmp_path, may_load=False)
    for change in (house.server.load("m"), house.server.unload("m")):
        with pytest.raises(NotReady, match="explicit model load / unload is not allowed"):
            await change


async def test_the_version_policy_decides_what_serves(house: House) -> None:
    for version in (1, 2, 10):
        publish(house.root, version, chosen=version, original=version, built=version)
    house.configure("version_policy { specific { versions: [ 1, 10 ] } }")
    await house.server.load("m")
    assert [await house.factor(version) for version in ("1", "10", "")] == [1, 10, 10]
    assert list(house.server.model_metadata("m", "").versions) == ["1", "10"]
    assert list(house.server.model_metadata("m", "1").versions) == ["1"]
    with pytest.raises(NotFound, match="version 2 is not found"):
        await house.factor("2")
    house.configure("")
    await house.server.load("m")
    assert house.index() == {"1": (UNAVAILABLE, "superseded"), "10": (READY, "")}
    assert house.server.model_config("m", "").max_batch_size == 4


async def test_a_good_reload_under_load_fails_no_request(house: House) -> None:
    publish(house.root, 1, chosen=1, original=1, built=1)
    await house.server.load("m")
    answers: list[InferResponse | Error] = []
    is_over = False

    async def keep_asking() -> None:
        while not is_over:
            answers.append(await house.ask())

    clients = [asyncio.create_task(keep_asking()) for _ in range(8)]
    for version in (2, 3, 4):
        publish(house.root, version, chosen=version, original=version, built=version)
        await house.server.load("m")
        assert await house.factor() == version
    is_over = True
    await asyncio.gather(*clients)
    assert [answer for answer in answers if isinstance(answer, Error)] == []
    assert {answer.model_version for answer in answers if isinstance(answer, InferResponse)} == {"1", "2", "3", "4"}


def golden_mismatch(root: Path, version: int, fallback: float | None = 2.0) -> None:
    publish(root, version, chosen=7, fallback=fallback, original=2, built=7)


def changed_file(root: Path, version: int) -> None:
    (publish(root, version) / "model.onnx").write_bytes(b"changed")


def damaged_evidence(root: Path, version: int) -> None:
    (publish(root, version) / "evidence.json").write_text("{")


@pytest.mark.parametrize("break_it", [golden_mismatch, changed_file, damaged_evidence])
async def test_a_broken_new_version_leaves_the_old_one_serving_and_marked(
    house: House, break_it: Callable[[Path, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    publish(house.root, 1)
    await house.server.load("m")
    break_it(house.root, 2)
    with pytest.raises(InvalidInput, match="failed to load 'm': version 2: "):
        await house.server.load("m")
    assert await house.factor() == 2
    state, reason = house.index()["1"]
    assert (state, reason[:45]) == (READY, "degraded: version 1 still serves because: ver")
    assert house.index()["2"][0] == UNAVAILABLE
    assert house.metric("enginehouse_model_degraded", 1) == 1
    assert "model 'm' is degraded" in caplog.text
    house.server.started()
    assert house.server.is_ready()
    shutil.rmtree(house.root / "m" / "2")
    publish(house.root, 3, chosen=3, original=3, built=3)
    await house.server.load("m")
    assert await house.factor() == 3
    assert house.index()["3"] == (READY, "")
    assert house.metric("enginehouse_model_degraded", 3) == 0


async def test_at_the_start_the_previous_version_steps_in_before_the_fallback(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    publish(house.root, 1, chosen=1, original=1, built=1)
    changed_file(house.root, 2)
    golden_mismatch(house.root, 3)
    await house.server.load("m")
    assert await house.factor() == 1
    assert house.index()["1"][1].startswith("degraded: version 1 serves because: version 3: golden output 'y' differs")
    assert house.index()["3"][0] == UNAVAILABLE
    assert house.metric("enginehouse_model_degraded", 1) == 1
    assert 'enginehouse_golden_failures_total{model="m",version="3"} 1' in house.metrics.render()
    assert "version 2 cannot step in" in caplog.text
    assert "is degraded" in caplog.text


async def test_without_a_previous_version_the_fallback_serves_degraded(house: House) -> None:
    golden_mismatch(house.root, 1)
    await house.server.load("m")
    assert await house.factor() == 2
    assert house.index()["1"][1].startswith("degraded: fallback.onnx serves because: version 1: golden output 'y'")
    assert house.metric("enginehouse_model_degraded", 1) == 1
    assert house.metric("enginehouse_golden_failures_total", 1) == 1
    house.server.started()
    assert house.server.is_ready()


@pytest.mark.parametrize("is_strict", [True, False])
async def test_without_anything_that_holds_the_model_is_not_ready_and_others_are(
    tmp_path: Path, is_strict: bool
) -> None:
    house = House(tmp_path, is_strict)
    golden_mismatch(house.root, 1, fallback=7)
    publish(house.root, name="good")
    publish(house.root, name="bad_config")
    house.configure("nonsense", "bad_config")
    told: list[bool] = []
    house.server.watch_readiness(told.append)
    assert not house.server.is_ready()
    await load_all(house.lifecycle, house.lifecycle.repository_names())
    assert await house.factor(name="good") == 2
    with pytest.raises(NotReady, match="has no version at ready state \\(version 1: golden output"):
        await house.factor()
    assert house.index("bad_config")["1"][0] == UNAVAILABLE
    assert house.lifecycle.failed_models == {"m", "bad_config"}
    house.server.started()
    assert house.server.is_ready() is not is_strict
    await house.server.unload("m")
    await house.server.unload("bad_config")
    assert house.server.is_ready()
    house.server.stopping()
    assert not house.server.is_ready()
    assert told[-2:] == [True, False]
    await house.lifecycle.unload_all()


async def test_a_loader_that_raises_anything_harms_one_model_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(house.root)
    publish(house.root, name="good")
    real = house.loader.load

    def odd(config: Any, version: int) -> Any:
        if config.name == "m":
            raise ZeroDivisionError("a library bug")
        return real(config, version)

    monkeypatch.setattr(house.loader, "load", odd)
    monkeypatch.setattr(house.loader, "load_fallback", lambda config, version, _: odd(config, version))
    await load_all(house.lifecycle, ["m", "good"])
    assert await house.factor(name="good") == 2
    assert house.index()["1"] == (UNAVAILABLE, "a library bug")


async def test_of_several_versions_those_that_hold_serve_and_the_newest_is_marked(house: House) -> None:
    house.root.joinpath("m").mkdir()
    house.configure("version_policy { all { } }")
    for version in (1, 2):
        publish(house.root, version, chosen=version, original=version, built=version)
    golden_mismatch(house.root, 3)
    await house.server.load("m")
    assert [await house.factor("1"), await house.factor("")] == [1, 2]
    assert house.index()["1"] == (READY, "")
    assert house.index()["2"][1].startswith("degraded: version 2 serves because: version 3: golden")
    assert house.index()["3"][0] == UNAVAILABLE


async def test_a_version_that_cannot_be_reloaded_goes_on_as_it_was(house: House) -> None:
    house.root.joinpath("m").mkdir()
    house.configure("version_policy { all { } }")
    for version in (1, 2):
        publish(house.root, version, chosen=version, original=version, built=version)
    await house.server.load("m")
    (house.root / "m" / "1" / "model.onnx").write_bytes(b"changed")
    await house.server.load("m")
    assert [await house.factor("1"), await house.factor("2")] == [1, 2]
    assert house.index()["1"][1].startswith("degraded: version 1 still serves because: ")
    assert house.index()["2"] == (READY, "")


async def test_a_configuration_that_a_client_tries_is_used_or_changes_nothing(house: House) -> None:
    publish(house.root)
    await house.server.load("m", '{"max_batch_size": "2", "dynamic_batching": {}}')
    assert house.server.model_config("m", "").max_batch_size == 2
    for bad in (
        '{"max_batch_size": -1}',
        "{",
        '{"response_cache": {"enable": true}}',
        '{"input": [{"name": "x", "data_type": 99, "dims": [2]}]}',
        '{"backend": "onnxruntime", "default_model_filename": "../../m/1/model.onnx"}',
        '{"instance_group": [{"kind": 99}]}',
    ):
        with pytest.raises(InvalidInput, match="failed to load 'm'"):
            await house.server.load("m", bad)
    assert house.index() == {"1": (READY, "")}
    assert house.server.model_config("m", "").max_batch_size == 2
    assert await house.factor() == 2


async def test_a_caller_who_leaves_in_the_middle_of_a_load_leaves_nothing_half_done(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(house.root)
    may_go_on, entered = threading.Event(), asyncio.Event()
    loop, real = asyncio.get_running_loop(), house.loader.load

    def slow(config: Any, version: int) -> Any:
        loop.call_soon_threadsafe(entered.set)
        assert may_go_on.wait(30)
        return real(config, version)

    monkeypatch.setattr(house.loader, "load", slow)
    load = asyncio.create_task(house.server.load("m"))
    await asyncio.wait_for(entered.wait(), 30)
    assert house.index() == {"1": (LOADING, "")}
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    may_go_on.set()
    await house.server.load("m")
    assert house.index() == {"1": (READY, "")}
    assert await house.factor() == 2


async def test_unloading_answers_what_was_admitted_and_cancelling_works_meanwhile(house: House) -> None:
    publish(house.root)
    house.configure("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 50000 }")
    await house.server.load("m")
    admitted = house.ask()
    left: list[InferResponse | Error] = []
    leaver = house.server.infer(make_request(), left.append)
    unload = asyncio.create_task(house.server.unload("m"))
    while "m" in {model.name for model in house.registry.served()}:
        await asyncio.sleep(0)
    assert isinstance(leaver, Pending)
    house.server.cancel(leaver)
    assert isinstance(left[0], Cancelled)
    await unload
    assert isinstance(await admitted, InferResponse)


async def test_what_is_not_drained_in_time_is_told(house: House) -> None:
    publish(house.root)
    house.configure("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 60000000 }")
    house.lifecycle._drain_seconds = 0.01
    await house.server.load("m")
    waiting = house.ask()
    await house.server.unload("m")
    answer = await waiting
    assert isinstance(answer, NotReady)
    assert "was stopped before it could answer" in str(answer)


async def test_a_refusal_is_settled_before_infer_returns_and_a_deaf_caller_harms_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[InferResponse | Error] = []
    assert house.server.infer(make_request(), told.append) is None
    assert isinstance(told[0], NotFound)

    def deaf(_: object) -> None:
        raise ConnectionResetError

    with caplog.at_level(logging.CRITICAL):
        assert house.server.infer(make_request(), deaf) is None
    long = make_request()
    long.model_version = "9" * 5000
    house.server.infer(long, told.append)
    assert isinstance(told[1], InvalidInput)


async def test_statistics_are_told_by_version_by_model_and_for_everything(house: House) -> None:
    for name in ("a", "m"):
        publish(house.root, name=name)
        await house.server.load(name)
    await house.factor()
    for name, version, expected in (("m", "1", ["m"]), ("m", "", ["m"]), ("", "", ["a", "m"])):
        answer = house.server.statistics(name, version).model_stats
        assert [entry.name for entry in answer] == expected
        assert answer[-1].inference_count == 1
    with pytest.raises(NotFound):
        house.server.statistics("nobody", "")


async def test_the_server_says_who_it_is_and_only_what_it_can(house: House) -> None:
    answer = house.server.server_metadata()
    assert answer.name == "test"
    assert answer.version[0].isdecimal()
    assert list(answer.extensions) == ["model_repository", "model_configuration", "binary_tensor_data", "statistics"]


async def test_a_field_that_is_not_honoured_fails_its_model_by_name(house: House) -> None:
    publish(house.root)
    house.configure("sequence_batching { }")
    with pytest.raises(InvalidInput, match="does not honour sequence_batching") as refusal:
        await house.server.load("m")
    assert isinstance(refusal.value.__cause__, NotSupported)
