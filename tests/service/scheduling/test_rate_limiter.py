"""Resources are shared: nobody runs without what it needs, and everybody gets a turn."""

import random
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from service.clock import FakeClock
from service.scheduling.batch import BatchPolicy
from service.scheduling.rate_limiter import (
    Needs,
    Permit,
    RateLimiter,
    Resource,
    ResourceLimit,
    limit_from_text,
    needs_from_config,
)
from tests.service.simulation import Simulation

R1, R2 = Resource("R1", 0), Resource("R2", 0)


@dataclass
class Worker:
    """Always wants to run."""

    permit: Permit
    runs: int = 0
    log: list[str] = field(default_factory=list)

    def ask(self) -> bool:
        return self.permit.ask(partial(self.log.append, "granted"))


def workers(*needs: Needs, limits: tuple[ResourceLimit, ...] = ()) -> tuple[FakeClock, list[Worker]]:
    clock = FakeClock()
    return clock, [Worker(permit) for permit in RateLimiter(clock, limits).join(needs)]


def test_a_resource_that_is_taken_is_waited_for() -> None:
    clock, (first, second) = workers(Needs({R1: 2}), Needs({R1: 1}))
    assert first.ask()
    assert not second.ask()
    clock.run_ready()
    assert second.log == []
    first.permit.give_back()
    clock.run_ready()
    assert second.log == ["granted"]
    assert second.permit.is_held


def test_there_is_as_much_as_the_most_demanding_needs_unless_told_otherwise() -> None:
    _, (first, second, third) = workers(Needs({R1: 1}), Needs({R1: 1}), Needs({R1: 2}))
    assert [first.ask(), second.ask(), third.ask()] == [True, True, False]
    _, (first, second) = workers(Needs({R1: 2}), Needs({R1: 2}), limits=(ResourceLimit("R1", 4),))
    assert [first.ask(), second.ask()] == [True, True]


def test_limits_hold_for_each_device_or_for_one_and_global_resources_for_all() -> None:
    limits = (ResourceLimit("R1", 1), ResourceLimit("R1", 2, device=1), ResourceLimit("G", 1))
    on_one, everywhere = Resource("R1", 1), Resource("G", None)
    _, asked = workers(*[Needs({R1: 1})] * 2, *[Needs({on_one: 1})] * 3, *[Needs({everywhere: 1})] * 2, limits=limits)
    assert [one.ask() for one in asked] == [True, False, True, True, False, True, False]


def test_who_waits_is_not_overtaken_for_what_it_waits_for_but_others_pass() -> None:
    clock, (holder, large, small, other) = workers(
        Needs({R1: 1}),
        Needs({R1: 2}),
        Needs({R1: 1}),
        Needs({R2: 1}),
        limits=(ResourceLimit("R1", 2), ResourceLimit("R2", 1)),
    )
    assert holder.ask()
    assert not large.ask()
    assert not small.ask()
    assert other.ask()
    holder.permit.give_back()
    clock.run_ready()
    assert (large.log, small.log) == (["granted"], [])


def test_priority_one_runs_twice_as_often_as_priority_two() -> None:
    clock, (first, second) = workers(Needs({R1: 1}, priority=1), Needs({R1: 1}, priority=2))
    counts = {"first": 0, "second": 0}

    def run(name: str, worker: Worker) -> None:
        counts[name] += 1
        clock.call_later(1, finish, name, worker)

    def finish(name: str, worker: Worker) -> None:
        worker.permit.give_back()
        ask(name, worker)

    def ask(name: str, worker: Worker) -> None:
        if worker.permit.ask(partial(run, name, worker)):
            run(name, worker)

    ask("first", first)
    ask("second", second)
    clock.advance(300)
    assert sum(counts.values()) == 301
    assert counts["first"] == pytest.approx(200, abs=2)


def test_who_joins_late_does_not_catch_up_with_what_ran_before() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock)
    (old,) = limiter.join([Needs({R1: 1})])
    for _ in range(100):
        assert old.ask(lambda: None)
        old.give_back()
    (young,) = limiter.join([Needs({R1: 1})])
    assert young.runs == 100


def test_who_leaves_asks_no_more_and_gives_back_what_it_has() -> None:
    clock, (first, second, third) = workers(*[Needs({R1: 1})] * 3)
    assert first.ask()
    second.ask()
    third.ask()
    second.permit.leave()
    first.permit.leave()
    clock.run_ready()
    assert (second.log, third.log) == ([], [])
    first.permit.give_back()
    clock.run_ready()
    assert (second.log, third.log) == ([], ["granted"])


def test_an_instance_that_could_never_run_is_refused_when_it_joins() -> None:
    limiter = RateLimiter(FakeClock(), [ResourceLimit("R1", 3)])
    with pytest.raises(InvalidInput, match=r"'R1' is limited to 3, and an instance needs 4: .* R1:4 or more"):
        limiter.join([Needs({R1: 4})])
    with pytest.raises(InvalidInput, match="'R2' is limited to 0"):
        limiter.join([Needs({R2: 1})])
    limiter.join([Needs({R1: 3})])
    with pytest.raises(InvalidInput, match="'R1' is global for one model and of a device for another"):
        limiter.join([Needs({Resource("R1", None): 1})])


def test_the_configuration_says_what_each_instance_needs() -> None:
    config = config_from_text(
        """instance_group [
            { count: 2 kind: KIND_CPU rate_limiter { priority: 3 resources [
                { name: "R1" count: 4 }, { name: "G" global: true count: 2 } ] } },
            { count: 1 kind: KIND_GPU gpus: [ 1 ] rate_limiter { resources [ { name: "R1" count: 1 } ] } },
            { kind: KIND_CPU } ]""",
        "m",
    )
    both = Needs({Resource("R1", 0): 4, Resource("G", None): 2}, 3)
    assert needs_from_config(config) == [both, both, Needs({Resource("R1", 1): 1}), Needs({})]


def test_flags_name_resources() -> None:
    assert limit_from_text("R1:10") == ResourceLimit("R1", 10)
    assert limit_from_text("R2:5:0") == ResourceLimit("R2", 5, 0)


@pytest.mark.parametrize("text", ["", "R1", "R1:", ":3", "R1:x", "R1:-1", "R1:1:2:3", "R1:1:gpu"])
def test_a_flag_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="name:count or name:count:device is expected"):
        limit_from_text(text)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(0, 2**16),
)
def test_models_that_share_resources_never_have_more_than_there_is_and_all_are_served(
    wishes: list[tuple[int, int, int]], seed: int
) -> None:
    """Batchers of several models at one limiter: requests come and leave at random, and everybody is answered."""
    clock, rng = FakeClock(), random.Random(seed)
    limits = (ResourceLimit("R1", 3), ResourceLimit("R2", 2))
    limiter = RateLimiter(clock, limits)
    models = []
    for one, two, priority in wishes:
        needs = [Needs({R1: one, R2: two}, priority)] * rng.randint(1, 2)
        permits = limiter.join(needs)
        models.append(
            (
                Simulation(BatchPolicy(4), lambda _: 0.01, instances=len(needs), permits=permits, clock=clock),
                one,
                two,
            )
        )
    for _ in range(60):
        model, _, _ = rng.choice(models)
        asked = model.ask(rng.randint(1, 3))
        if rng.random() < 0.2:
            clock.call_later(rng.random() * 0.05, asked.pending.cancel)
        clock.advance(rng.random() * 0.01)
        running = [(sum(instance.is_busy for instance in each.instances), one, two) for each, one, two in models]
        assert sum(busy * one for busy, one, _ in running) <= 3
        assert sum(busy * two for busy, _, two in running) <= 2
    clock.advance(100)
    assert all(len(asked.answers) == 1 for model, _, _ in models for asked in model.asked)
    assert all(count == 0 for count in limiter._held.values())
