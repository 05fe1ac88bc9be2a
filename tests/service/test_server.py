"""The one object behind every transport, over real versions."""

import asyncio
import logging
from pathlib import Path

import pytest

from enginehouse.errors import Cancelled, Error, InvalidInput, NotFound, NotReady
from service.loading.lifecycle import load_all
from service.registry import READY, UNAVAILABLE
from service.request import InferResponse
from service.scheduling.queue import Pending
from tests.service.conftest import House, make_request, publish, publish_mismatch


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


@pytest.mark.parametrize("is_strict", [True, False])
async def test_without_anything_that_holds_the_model_is_not_ready_and_others_are(
    tmp_path: Path, is_strict: bool
) -> None:
    house = House(tmp_path, is_strict)
    publish_mismatch(house.root, 1, fallback=7)
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
    leaver.cancel()
    assert isinstance(left[0], Cancelled)
    await unload
    assert isinstance(await admitted, InferResponse)


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
    here = ["model_repository", "schedule_policy", "model_configuration", "binary_tensor_data", "statistics"]
    assert set(answer.extensions) >= set(here)
    assert answer.extensions[-2:] == ["trace", "logging"]
    assert not {"system_shared_memory", "cuda_shared_memory"} & set(answer.extensions)


async def test_counters_go_on_through_a_reload_and_count_what_transports_wrote(house: House) -> None:
    publish(house.root)
    await house.server.load("m")
    await house.factor()
    house.server.count_encode("m", "1", 0.002)
    house.server.count_encode("m", "", 0.002)
    await house.server.load("m")
    await house.factor()
    statistics = house.registry.resolve("m", "").statistics
    assert statistics.success.count == 2
    assert sum(statistics.encode_histogram.counts) == 2
    assert statistics.encode_histogram.total == pytest.approx(0.004)
    assert house.metric("nv_inference_request_success", 1) == 2
    await house.server.unload("m")
    house.server.count_encode("m", "1", 0.002)
    assert sum(statistics.encode_histogram.counts) == 2
    await house.server.load("m")
    assert house.metric("nv_inference_request_success", 1) == 2
