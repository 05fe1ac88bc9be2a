"""What is told of a model in each state of its life: never asked for, loading, serving, reloading, leaving, gone."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from enginehouse.errors import Error, NotFound, NotReady
from service.registry import LOADING, READY, UNAVAILABLE, UNLOADING
from service.request import InferResponse
from tests.service.conftest import House, publish


class Gate:
    """Holds up each load of an engine until it is opened."""

    def __init__(self, house: House) -> None:
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        self._load = house.loader.load
        house.loader.load = self._wait_and_load  # type: ignore[assignment, method-assign]

    def _wait_and_load(self, *arguments: Any) -> Any:
        self.is_reached.set()
        assert self.is_open.wait(30)
        return self._load(*arguments)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.is_reached.wait, 30)


def questions(house: House) -> list[Callable[[str], object]]:
    """All that may be asked of a model, by its version."""
    server = house.server
    return [
        lambda version: server.model_metadata("m", version),
        lambda version: server.model_config("m", version),
        lambda version: server.statistics("m", version),
    ]


def told(house: House, kind: type[Error], version: str = "") -> set[str]:
    """What every question is answered with, if none is answered."""
    answers = set()
    for ask in questions(house):
        with pytest.raises(kind) as refusal:
            ask(version)
        answers.add(str(refusal.value))
    return answers


async def test_a_model_that_nobody_asked_for_is_unknown(house: House) -> None:
    publish(house.root)
    assert told(house, NotFound) == {"Request for unknown model: 'm' is not found"}
    assert told(house, NotFound, "1") == {"Request for unknown model: 'm' is not found"}
    assert not house.server.statistics("", "").model_stats


async def test_the_first_load_is_told_while_it_lasts(house: House) -> None:
    publish(house.root)
    gate = Gate(house)
    loading = asyncio.create_task(house.server.load("m"))
    await gate.reached()
    assert house.index() == {"1": (LOADING, "")}
    assert told(house, NotReady) == {"Request for unknown model: 'm' has no version at ready state"}
    assert told(house, NotReady, "1") == {"Request for unknown model: 'm' version 1 is not at ready state"}
    assert told(house, NotFound, "2") == {"Request for unknown model: 'm' version 2 is not found"}
    assert not house.server.is_model_ready("m", "")
    assert not house.server.statistics("", "").model_stats
    assert not house.server.repository_index(only_ready=True).models
    gate.is_open.set()
    await loading
    assert house.index() == {"1": (READY, "")}
    assert [row.name for row in house.server.repository_index(only_ready=True).models] == ["m"]
    for ask in questions(house):
        ask("")
        ask("1")


async def test_a_reload_takes_nothing_away_while_it_lasts(house: House) -> None:
    publish(house.root, 1)
    await house.server.load("m")
    await house.factor()
    publish(house.root, 2, chosen=3, original=3, built=3)
    gate = Gate(house)
    loading = asyncio.create_task(house.server.load("m"))
    await gate.reached()
    assert house.index() == {"1": (READY, ""), "2": (LOADING, "")}
    (counted,) = house.server.statistics("m", "").model_stats
    assert (counted.version, counted.inference_count) == ("1", 1)
    assert list(house.server.model_metadata("m", "").versions) == ["1"]
    assert await house.factor() == 2
    gate.is_open.set()
    await loading
    assert house.index() == {"1": (UNAVAILABLE, "superseded"), "2": (READY, "")}
    (counted,) = house.server.statistics("m", "").model_stats
    assert (counted.version, counted.inference_count) == ("2", 0)
    with pytest.raises(NotReady, match="version 1 is not at ready state"):
        house.server.statistics("m", "1")


async def test_a_version_that_leaves_is_asked_nothing_more_and_finishes_what_it_has(house: House) -> None:
    publish(house.root)
    house.configure("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 200000 }")
    await house.server.load("m")
    waiting = house.ask()
    leaving = asyncio.create_task(house.server.unload("m"))
    while house.index()["1"][0] == READY:
        await asyncio.sleep(0)
    assert house.index() == {"1": (UNLOADING, "")}
    assert told(house, NotReady) == {"Request for unknown model: 'm' has no version at ready state"}
    assert isinstance(await house.ask(), NotReady)
    assert isinstance(await waiting, InferResponse)
    await leaving
    assert house.index() == {"1": (UNAVAILABLE, "unloaded")}
    assert told(house, NotReady) == {
        "Request for unknown model: 'm' has no version at ready state (version 1: unloaded)"
    }


async def test_what_is_not_in_the_repository_cannot_be_loaded_and_the_text_is_tritons(house: House) -> None:
    with pytest.raises(NotFound, match=r"^failed to load 'nobody', failed to poll from model repository"):
        await house.server.load("nobody")
    assert house.index("nobody") == {}
