"""What comes, changes or goes in a repository comes, changes or goes in the server, once it holds still."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginehouse.errors import NotReady
from enginehouse.repository import Repository
from service.clock import FakeClock
from service.loading.poller import Poller
from service.loading.repositories import Repositories
from service.registry import READY, UNAVAILABLE
from tests.service.conftest import House, publish

ALL = "version_policy { all { } }"


class Followed:
    """A house whose repository is looked at when the test says so."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.clock = FakeClock()
        self.changes = 0
        self.loaded: list[int] = []
        self.poller = Poller(house.loader.repository, house.lifecycle, self.clock, 10, self.changed)
        real = house.loader.load

        def load(config: Any, version: int) -> Any:
            self.loaded.append(version)
            return real(config, version)

        house.loader.load = load  # type: ignore[method-assign]

    def changed(self) -> None:
        self.changes += 1

    async def settle(self) -> list[int]:
        """Look until nothing moves; which versions were loaded for it."""
        self.loaded.clear()
        while await self.poller.look():
            pass
        return self.loaded


@pytest.fixture
async def followed(house: House) -> Followed:
    publish(house.root, 1, chosen=1, original=1, built=1)
    house.configure(ALL)
    made = Followed(house)
    await made.poller.start()
    return made


async def test_everything_is_loaded_at_the_start_and_nothing_while_nothing_moves(followed: Followed) -> None:
    assert await followed.house.factor() == 1
    assert await followed.settle() == []
    assert followed.changes == 1


async def test_a_version_that_comes_is_loaded_beside_those_that_go_on(followed: Followed) -> None:
    before = followed.house.registry.resolve("m", "1")
    publish(followed.house.root, 2, chosen=2, original=2, built=2)
    assert await followed.settle() == [2]
    assert [await followed.house.factor("1"), await followed.house.factor("")] == [1, 2]
    assert followed.house.registry.resolve("m", "1") is before


async def test_a_version_that_goes_is_unloaded_and_one_that_changes_is_loaded_again(followed: Followed) -> None:
    publish(followed.house.root, 2, chosen=2, original=2, built=2)
    await followed.settle()
    shutil.rmtree(followed.house.root / "m" / "1")
    assert await followed.settle() == []
    assert followed.house.index() == {"1": (UNAVAILABLE, "superseded"), "2": (READY, "")}
    shutil.rmtree(followed.house.root / "m" / "2")
    publish(followed.house.root, 2, chosen=5, original=5, built=5)
    assert await followed.settle() == [2]
    assert await followed.house.factor("2") == 5


async def test_a_new_configuration_loads_every_version_again(followed: Followed) -> None:
    followed.house.configure(f"{ALL} max_batch_size: 2")
    assert await followed.settle() == [1]
    assert followed.house.server.model_config("m", "").max_batch_size == 2


async def test_models_come_and_go(followed: Followed) -> None:
    publish(followed.house.root, 1, name="other")
    await followed.settle()
    assert await followed.house.factor(name="other") == 2
    shutil.rmtree(followed.house.root / "other")
    await followed.settle()
    with pytest.raises(NotReady):
        await followed.house.factor(name="other")
    assert await followed.house.factor() == 1
    assert followed.house.lifecycle.failed_models == frozenset()


async def test_what_still_moves_is_left_alone(followed: Followed) -> None:
    root = followed.house.root
    directory = publish(root, 2, chosen=2, original=2, built=2)
    half = directory / "model.onnx"
    whole = half.read_bytes()
    half.write_bytes(whole[:10])
    assert await followed.poller.look(), "it is to look again soon"
    half.write_bytes(whole)
    assert await followed.poller.look()
    assert followed.house.registry.versions("m") == [1]
    assert not await followed.poller.look()
    assert followed.house.registry.versions("m") == [1, 2]


async def test_a_broken_change_leaves_what_serves_and_is_tried_again_ever_less_often(followed: Followed) -> None:
    directory = publish(followed.house.root, 2, chosen=2, original=2, built=2)
    whole = (directory / "model.onnx").read_bytes()
    (directory / "model.onnx").write_bytes(b"x" * len(whole))
    assert await followed.settle() == [2]
    assert await followed.house.factor() == 1
    assert followed.house.index()["1"][1].startswith("degraded: version 1 serves because: version 2")
    tried = []
    for _ in range(8):
        followed.clock.advance(10)
        tried += [list(await followed.settle())]
    assert tried == [[2], [], [2], [], [], [], [2], []]
    (directory / "model.onnx").write_bytes(whole)
    await followed.settle()
    assert await followed.house.factor() == 2
    assert {state for state, _ in followed.house.index().values()} == {READY}


async def test_a_model_that_fails_and_then_goes_is_forgotten(followed: Followed) -> None:
    publish(followed.house.root, 1, name="other")
    (followed.house.root / "other" / "config.pbtxt").write_text("nonsense")
    await followed.settle()
    assert followed.house.server.repository_index(False).models[-1].name == "other"
    shutil.rmtree(followed.house.root / "other")
    await followed.settle()
    followed.clock.advance(1000)
    assert not await followed.poller.look()
    assert followed.house.registry.versions("other") == []


async def test_a_repository_that_cannot_be_looked_at_stops_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(house.root)
    is_there = asyncio.Event()
    poller = Poller(house.loader.repository, house.lifecycle, FakeClock(), 0.001, is_there.set)
    await poller.start()
    real, looks = house.loader.repository.look, 0

    def look() -> Any:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise NotReady("the bucket is away")
        return real()

    monkeypatch.setattr(house.loader.repository, "look", look)
    is_there.clear()
    following = asyncio.create_task(poller.run())
    publish(house.root, 2, chosen=5, original=5, built=5)
    await asyncio.wait_for(is_there.wait(), 30)
    following.cancel()
    assert await house.factor() == 5
    assert "cannot be looked at: the bucket is away" in caplog.text


async def test_the_same_model_in_two_repositories_is_refused_and_what_serves_goes_on(
    house: House, tmp_path_factory: pytest.TempPathFactory
) -> None:
    second: Path = tmp_path_factory.mktemp("second")
    both = Repositories([Repository(house.root), Repository(second)])
    house.loader.repository = both
    house.lifecycle._repositories = both
    publish(house.root, 1, chosen=1, original=1, built=1)
    publish(second, 1, name="other")
    followed = Followed(house)
    await followed.poller.start()
    assert [await house.factor(), await house.factor(name="other")] == [1, 2]
    publish(second, 2, chosen=2, original=2, built=2)
    await followed.settle()
    assert await house.factor() == 1
    shutil.rmtree(house.root / "m")
    await followed.settle()
    followed.clock.advance(1000)
    await followed.settle()
    assert await house.factor() == 2
