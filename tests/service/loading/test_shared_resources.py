"""Models that share resources come, change and go: what they held is there for the others again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput
from service.clock import LoopClock
from service.loading.assembly import Surroundings
from service.loading.lifecycle import Lifecycle
from service.registry import UNAVAILABLE
from service.request import InferResponse
from service.scheduling.rate_limiter import RateLimiter, Resource, ResourceLimit
from service.server import InferenceServer, identity
from tests.service.conftest import House, publish

R = Resource("R", 0)
MODELS = {"modest": 1, "greedy": 2, "other": 1}


class LimitedHouse(House):
    """A server whose models share resources."""

    def __init__(self, root: Path, limits: Sequence[ResourceLimit]) -> None:
        super().__init__(root)
        clock = LoopClock(asyncio.get_running_loop())
        self.limiter = RateLimiter(clock, limits)
        self.lifecycle = Lifecycle(self.registry, self.loader, Surroundings(clock, rate_limiter=self.limiter), 30)
        self.server = InferenceServer(self.registry, self.lifecycle, clock, identity("test"), True, True)

    def add(self, name: str, count: int, instances: int = 2, more: str = "") -> None:
        if not (self.root / name).exists():
            publish(self.root, name=name)
        needs = f'rate_limiter {{ resources {{ name: "R" count: {count} {more} }} }}'
        self.configure(f"max_batch_size: 4 instance_group {{ count: {instances} kind: KIND_CPU {needs} }}", name)

    async def everybody_is_answered(self) -> None:
        names = [name for name in MODELS if self.registry.versions(name)] * 5
        answers = await asyncio.wait_for(asyncio.gather(*(self.ask(name=name) for name in names)), 30)
        assert all(isinstance(answer, InferResponse) for answer in answers), answers

    def held(self) -> int:
        return self.limiter._held.get(R, 0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[LimitedHouse]:
    made = LimitedHouse(tmp_path, [ResourceLimit("R", 2)])
    for name, count in MODELS.items():
        made.add(name, count)
        await made.server.load(name)
    yield made
    await made.lifecycle.unload_all()
    assert made.limiter._permits == []
    assert made.held() == 0


async def test_models_that_are_loaded_again_take_no_more_places_than_before(house: LimitedHouse) -> None:
    for _ in range(5):
        await asyncio.gather(house.server.load("greedy"), house.everybody_is_answered(), house.server.load("modest"))
    assert len(house.limiter._permits) == 2 * len(MODELS)
    assert house.held() == 0


async def test_a_model_that_goes_leaves_the_others_what_it_had(house: LimitedHouse) -> None:
    asked = [house.ask(name="greedy") for _ in range(10)]
    await house.server.unload("greedy")
    assert all(isinstance(answer, InferResponse) for answer in await asyncio.gather(*asked))
    await house.everybody_is_answered()
    assert {permit.needs.resources[R] for permit in house.limiter._permits} == {1}


async def test_a_reload_that_asks_for_more_than_there_is_changes_nothing(house: LimitedHouse) -> None:
    house.add("modest", 3)
    with pytest.raises(InvalidInput, match="'R' is limited to 2, and an instance needs 3"):
        await house.server.load("modest")
    await house.everybody_is_answered()
    assert len(house.limiter._permits) == 2 * len(MODELS)
    house.add("modest", 2, instances=1)
    await house.server.load("modest")
    await house.everybody_is_answered()
    assert len(house.limiter._permits) == 2 * len(MODELS) - 1


async def test_a_resource_is_of_a_device_or_global_for_all_models(house: LimitedHouse) -> None:
    house.add("late", 1, more="global: true")
    with pytest.raises(InvalidInput, match="'R' is global for one model and of a device for another"):
        await house.server.load("late")
    assert house.index("late")["1"][0] == UNAVAILABLE
    await house.everybody_is_answered()
