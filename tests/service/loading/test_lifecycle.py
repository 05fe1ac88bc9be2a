"""Versions come in and go out beside serving: replaced, degraded, recovered, never half done."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.errors import Error, InvalidInput, NotFound, NotReady, NotSupported
from service.loading.assembly import serve_version
from service.loading.lifecycle import load_all
from service.registry import LOADING, READY, UNAVAILABLE
from service.request import InferResponse, SequencePosition
from service.served import Served
from tests.service.conftest import House, make_scale_model, publish, publish_mismatch


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


async def test_a_request_right_after_the_swap_finds_its_sequence_where_it_began(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything else has its turn on the loop."""
    publish(house.root, 1, chosen=1, original=1, built=1)
    house.configure("max_batch_size: 4 sequence_batching { max_sequence_idle_microseconds: 60000000 }")
    await house.server.load("m")
    await house.ask(sequence=SequencePosition(7, is_start=True))
    publish(house.root, 2, chosen=2, original=2, built=2)
    told: list[asyncio.Future[InferResponse | Error]] = []
    replace = house.registry.replace

    def swap(name: str, models: Iterable[Served]) -> list[Served]:
        last = SequencePosition(7, is_end=True)
        asyncio.get_running_loop().call_soon(lambda: told.append(house.ask(sequence=last)))
        return replace(name, models)

    monkeypatch.setattr(house.registry, "replace", swap)
    await house.server.load("m")
    answer = await told[0]
    assert isinstance(answer, InferResponse), answer
    assert answer.model_version == "1"


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


async def test_what_a_configuration_asks_for_and_gets_another_way_is_logged_at_the_load(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    publish(house.root)
    house.configure("optimization { priority: PRIORITY_MAX }")
    with caplog.at_level("INFO", "service.loading.lifecycle"):
        await house.server.load("m")
    said = "model 'm': emulated is optimization.priority (a hint for speed that is not taken; the answers are the same)"
    assert [record.getMessage() for record in caplog.records if "emulated" in record.getMessage()] == [said]


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
        '{"runtime": "libmine.so"}',
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
    house.lifecycle._exchange._drain_seconds = 0.01
    await house.server.load("m")
    waiting = house.ask()
    await house.server.unload("m")
    answer = await asyncio.wait_for(waiting, 30)
    assert isinstance(answer, NotReady)
    assert "was stopped before it could answer" in str(answer)


async def test_a_field_that_is_not_honoured_fails_its_model_by_name(house: House) -> None:
    publish(house.root)
    house.configure("sequence_batching { iterative_sequence: true }")
    with pytest.raises(InvalidInput, match=r"does not honour sequence_batching\.iterative_sequence") as refusal:
        await house.server.load("m")
    assert isinstance(refusal.value.__cause__, NotSupported)


def scale(factor: float) -> bytes:
    return make_scale_model(factor).SerializeToString()


CONFIG = '{"max_batch_size": 4}'


async def test_files_of_a_client_replace_the_model_until_the_next_load_without_them(house: House) -> None:
    publish(house.root, 3, chosen=3, original=3, built=3)
    await house.server.load("m")
    await house.server.load("m", CONFIG, {"file:1/model.onnx": scale(5)})
    assert await house.factor() == 5
    assert house.index() == {"1": (READY, ""), "3": (UNAVAILABLE, "superseded")}
    root = house.loader.repository.model_directory("m").parent
    assert root != house.root
    await house.server.load("m", CONFIG, {"1/model.onnx": scale(6)})
    assert await house.factor() == 6
    assert not root.exists()
    await house.server.load("m")
    assert await house.factor() == 3
    assert house.index() == {"1": (UNAVAILABLE, "superseded"), "3": (READY, "")}
    assert house.loader.repository.model_directory("m").parent == house.root


async def test_files_that_do_not_load_leave_what_stood_in_before(house: House) -> None:
    publish(house.root)
    await house.server.load("m", CONFIG, {"file:1/model.onnx": scale(5)})
    before = house.loader.repository.model_directory("m")
    for config, files in (
        (CONFIG, {"file:1/model.onnx": b"nonsense"}),
        (CONFIG, {"file:labels.txt": b"no version"}),
        ("{", {"file:1/model.onnx": scale(7)}),
        ('{"name": "other"}', {"file:1/model.onnx": scale(7)}),
    ):
        with pytest.raises(InvalidInput, match="failed to load 'm'"):
            await house.server.load("m", config, files)
    assert house.loader.repository.model_directory("m") == before
    assert await house.factor() == 5


async def test_a_model_may_be_made_of_a_clients_files_alone(house: House) -> None:
    await house.server.load("m", CONFIG, {"file:2/model.onnx": scale(5)})
    assert await house.factor("2") == 5
    root = house.loader.repository.model_directory("m").parent
    with pytest.raises(NotFound, match="failed to poll from model repository"):
        await house.server.load("m")
    assert await house.factor("2") == 5
    await house.server.unload("m")
    assert not root.exists()


async def test_what_a_client_fails_to_load_does_not_make_the_server_unready(house: House) -> None:
    publish(house.root)
    publish(house.root, name="other")
    (house.root / "other" / "config.pbtxt").write_text("nonsense")
    await load_all(house.lifecycle, ["m"])
    house.server.started()
    with pytest.raises(InvalidInput):
        await house.server.load("other")
    with pytest.raises(InvalidInput):
        await house.server.load("client's own", CONFIG, {"file:1/model.onnx": b"nonsense"})
    assert house.server.is_ready()
    (house.root / "m" / "1" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(InvalidInput):
        await house.server.load("m")
    assert house.server.is_ready()


@pytest.fixture
def made_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What models are made of, by name: filled by a test, it is believed in place of their configurations."""
    table: dict[str, list[str]] = {}
    monkeypatch.setattr("service.loading.lifecycle.dependencies", lambda config: table.get(config.name, []))
    return table


def serving(house: House) -> list[str]:
    return [model.name for model in house.registry.served()]


async def test_what_a_model_is_made_of_loads_first_and_goes_with_it_on_request(
    house: House, made_of: dict[str, list[str]]
) -> None:
    for name in ("a", "b", "c", "m"):
        publish(house.root, name=name)
    made_of.update({"m": ["a", "b"], "b": ["c"]})
    await house.server.load("a")
    await house.server.load("m")
    assert serving(house) == ["a", "b", "c", "m"]
    await house.server.unload("m")
    assert serving(house) == ["a", "b", "c"]
    await house.server.load("m")
    await house.server.unload("m", unload_dependents=True)
    assert serving(house) == ["a"], "a was asked for by itself"


async def test_at_the_start_a_step_is_loaded_once_although_it_is_asked_for_and_needed(
    house: House, made_of: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "m", "z"):
        publish(house.root, name=name)
    made_of.update({"m": ["a", "z"]})
    loaded: list[str] = []
    real = house.loader.load

    def load(config: Any, version: int) -> Any:
        loaded.append(config.name)
        return real(config, version)

    monkeypatch.setattr(house.loader, "load", load)
    await load_all(house.lifecycle, ["a", "m", "z"])
    assert sorted(loaded) == ["a", "m", "z"]
    await house.server.load("a")
    assert sorted(loaded) == ["a", "a", "m", "z"], "asked for again, it is loaded anew"


async def test_a_step_that_another_model_needs_stays(house: House, made_of: dict[str, list[str]]) -> None:
    for name in ("a", "m", "n"):
        publish(house.root, name=name)
    made_of.update({"m": ["a"], "n": ["a"]})
    await house.server.load("m")
    await house.server.load("n")
    await house.server.unload("m", unload_dependents=True)
    assert serving(house) == ["a", "n"]
    await house.server.unload("n", unload_dependents=True)
    assert serving(house) == []


async def test_a_model_goes_with_what_it_is_made_of_and_comes_back_with_it(
    house: House, made_of: dict[str, list[str]]
) -> None:
    for name in ("a", "b", "m"):
        publish(house.root, name=name)
    made_of.update({"m": ["b"], "b": ["a"]})
    await house.server.load("m")
    await house.server.unload("a")
    assert serving(house) == []
    assert house.index() == {"1": (UNAVAILABLE, "model 'b', which it needs, was unloaded")}
    await house.server.load("a")
    assert serving(house) == ["a", "b", "m"]


async def test_a_model_that_was_unloaded_itself_does_not_come_back_with_its_steps(
    house: House, made_of: dict[str, list[str]]
) -> None:
    for name in ("a", "m"):
        publish(house.root, name=name)
    made_of.update({"m": ["a"]})
    await house.server.load("m")
    await house.server.unload("a")
    await house.server.unload("m")
    await house.server.load("a")
    assert serving(house) == ["a"]


async def test_a_model_whose_step_cannot_load_says_so_and_one_made_of_itself_is_refused(
    house: House, made_of: dict[str, list[str]]
) -> None:
    for name in ("a", "m", "n"):
        publish(house.root, name=name)
    (house.root / "a" / "1" / "model.onnx").write_bytes(b"changed")
    (house.root / "a" / "1" / "fallback.onnx").write_bytes(b"changed")
    made_of.update({"m": ["a"], "n": ["m", "n"]})
    with pytest.raises(InvalidInput, match="failed to load 'm': model 'a', which it needs, cannot serve: failed"):
        await house.server.load("m")
    made_of.update({"m": ["nobody"]})
    with pytest.raises(InvalidInput, match="model 'nobody', which it needs, cannot serve: failed to poll"):
        await house.server.load("m")
    made_of.update({"m": ["n"]})
    with pytest.raises(InvalidInput, match="it is made of itself: n -> m -> n"):
        await house.server.load("n")
    assert serving(house) == []


async def test_models_that_need_each_others_locks_do_not_wait_for_ever(
    house: House, made_of: dict[str, list[str]]
) -> None:
    for name in ("a", "m", "n"):
        publish(house.root, name=name)
    made_of.update({"m": ["a"], "n": ["a", "m"]})
    loads = [asyncio.create_task(house.server.load(name)) for name in ("n", "m", "a", "n", "m")]
    await asyncio.wait_for(asyncio.gather(*loads), 30)
    assert serving(house) == ["a", "m", "n"]


async def test_a_version_that_cannot_be_served_leaves_no_engine_open(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.root.joinpath("m").mkdir()
    house.configure("version_policy { all { } }")
    for version in (1, 2):
        publish(house.root, version)
    opened: list[Any] = []
    real = house.loader.load

    def load(config: Any, version: int) -> Any:
        opened.append(real(config, version))
        return opened[-1]

    monkeypatch.setattr(house.loader, "load", load)

    def serve(loaded: Any, surroundings: Any) -> Any:
        if loaded.version == 2:
            raise ValueError("a plan that makes no sense")
        return serve_version(loaded, surroundings)

    monkeypatch.setattr("service.loading.exchange.serve_version", serve)
    with pytest.raises(InvalidInput, match="a plan that makes no sense"):
        await house.server.load("m")
    assert len(opened) == 2
    for loaded in opened:
        with pytest.raises(Error):
            loaded.engines[0].run({"x": np.ones((1, 2), np.float32)})
