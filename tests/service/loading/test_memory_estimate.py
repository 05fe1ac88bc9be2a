"""A load that would not fit is refused with the figures, before it is tried."""

from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput
from service.loading.lifecycle import load_all
from service.loading.memory_estimate import GROWTH, MemoryBudget, needed_bytes
from service.loading.opening import EngineFile
from tests.service.conftest import House, publish

MB = 10**6


def file(size_bytes: int, memory_bytes: int | None = None, platform: str = "onnxruntime_onnx") -> EngineFile:
    return EngineFile(Path("model.onnx"), platform, size_bytes=size_bytes, memory_bytes=memory_bytes)


def test_the_first_engine_takes_the_most_and_each_further_one_what_it_serves_with() -> None:
    growth = GROWTH["onnxruntime_onnx"]
    assert needed_bytes(file(100 * MB), 1) == int(100 * MB * growth.opening)
    assert needed_bytes(file(100 * MB), 3) == int(100 * MB * (growth.opening + 2 * growth.serving))
    assert needed_bytes(file(100 * MB, platform="openvino"), 2) == int(100 * MB * 5)
    assert needed_bytes(file(100 * MB, platform="unheard of"), 1) == 200 * MB


def test_what_another_server_has_open_takes_nothing_again() -> None:
    assert needed_bytes(file(100 * MB), 0) == 0


def test_what_was_measured_counts_more_than_what_the_file_suggests() -> None:
    assert needed_bytes(file(10 * MB, memory_bytes=500 * MB), 2) == 1000 * MB


def test_a_load_that_does_not_fit_is_refused_with_the_figures() -> None:
    budget = MemoryBudget(lambda: 1000 * MB, 0.5)
    with budget.room_for("m", 2, 500 * MB):
        pass
    with (
        pytest.raises(
            InvalidInput,
            match=r"'m' version 2 would need about 501 MB .* 1,000 MB are available, and a load may take 50% of that",
        ),
        budget.room_for("m", 2, 501 * MB),
    ):
        raise AssertionError("it must not begin")


def test_loads_at_the_same_time_share_the_room() -> None:
    budget = MemoryBudget(lambda: 1000 * MB, 1.0)
    with budget.room_for("m", 1, 600 * MB):
        with (
            pytest.raises(InvalidInput, match="600 MB of which other loads will take"),
            budget.room_for("n", 1, 600 * MB),
        ):
            raise AssertionError("it must not begin")
        with budget.room_for("n", 1, 400 * MB):
            pass
    with pytest.raises(ZeroDivisionError), budget.room_for("m", 1, 600 * MB):
        raise ZeroDivisionError
    with budget.room_for("n", 1, 600 * MB):
        pass


def test_where_nothing_tells_or_nothing_is_limited_every_load_may_try() -> None:
    for budget in (MemoryBudget(lambda: None, 0.5), MemoryBudget(lambda: 1, None)):
        with budget.room_for("m", 1, 600 * MB):
            pass


async def test_a_model_that_does_not_fit_leaves_what_serves(house: House) -> None:
    publish(house.root)
    await load_all(house.lifecycle, ["m"])
    house.loader._budget = MemoryBudget(lambda: 100, 0.9)
    with pytest.raises(InvalidInput, match=r"failed to load 'm': version 1: .* would need about .* to load"):
        await house.server.load("m")
    assert await house.factor() == 2
    assert "would need about" in house.index()["1"][1]
    house.loader._budget = MemoryBudget(lambda: 100 * MB, 0.9)
    await house.server.load("m")
    assert house.index()["1"] == ("READY", "")
