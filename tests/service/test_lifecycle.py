"""Versions come in and go out beside serving: replaced, degraded, recovered, never half done."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginehouse.errors import Error, InvalidInput, NotFound, NotReady, NotSupported
from service.lifecycle import load_all
from service.registry import LOADING, READY, UNAVAILABLE
from service.request import InferResponse
from tests.service.conftest import House, publish, publish_mismatch


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


def changed_file(root: Path, version: int) -> None:
    (publish(root, version) / "model.onnx").write_bytes(b"changed")


def damaged_evidence(root: Path, version: int) -> None:
    (publish(root, version) / "evidence.json").write_text("{")


@pytest.mark.parametrize("break_it", [publish_mismatch, changed_file, damaged_evidence])
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
    publish_mismatch(house.root, 3)
    await house.server.load("m")
    assert await house.factor() == 1
    assert house.index()["1"][1].startswith("degraded: version 1 serves because: version 3: golden output 'y' differs")
    assert house.index()["3"][0] == UNAVAILABLE
    assert house.metric("enginehouse_model_degraded", 1) == 1
    assert 'enginehouse_golden_failures_total{model="m",version="3"} 1' in house.metrics.render()
    assert "version 2 cannot step in" in caplog.text
    assert "is degraded" in caplog.text


async def test_without_a_previous_version_the_fallback_serves_degraded(house: House) -> None:
    publish_mismatch(house.root, 1)
    await house.server.load("m")
    assert await house.factor() == 2
    assert house.index()["1"][1].startswith("degraded: fallback.onnx serves because: version 1: golden output 'y'")
    assert house.metric("enginehouse_model_degraded", 1) == 1
    assert house.metric("enginehouse_golden_failures_total", 1) == 1
    house.server.started()
    assert house.server.is_ready()


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
    publish_mismatch(house.root, 3)
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
    async with house.lifecycle._locks["m"]:
        pass
    assert house.index() == {"1": (READY, "")}
    assert await house.factor() == 2


async def test_what_is_not_drained_in_time_is_told(house: House) -> None:
    publish(house.root)
    house.configure("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 60000000 }")
    house.lifecycle._drain_seconds = 0.01
    await house.server.load("m")
    waiting = house.ask()
    await house.server.unload("m")
    answer = await asyncio.wait_for(waiting, 30)
    assert isinstance(answer, NotReady)
    assert "was stopped before it could answer" in str(answer)


async def test_a_field_that_is_not_honoured_fails_its_model_by_name(house: House) -> None:
    publish(house.root)
    house.configure("sequence_batching { }")
    with pytest.raises(InvalidInput, match="does not honour sequence_batching") as refusal:
        await house.server.load("m")
    assert isinstance(refusal.value.__cause__, NotSupported)
