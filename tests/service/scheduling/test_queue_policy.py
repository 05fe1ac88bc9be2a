"""What a configuration says about waiting, and what follows from it for a request."""

import pytest

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from service.scheduling.queue_policy import DEFAULT_MAX_QUEUE_SIZE, LevelPolicy, QueuePolicy, queue_policy_from_config
from tests.service.conftest import make_request


def policy(text: str) -> QueuePolicy:
    return queue_policy_from_config(config_from_text(text, "m"))


def test_a_configuration_that_says_nothing_asks_for_one_bounded_line() -> None:
    assert policy("dynamic_batching { }") == QueuePolicy(LevelPolicy(0.0, True, False, DEFAULT_MAX_QUEUE_SIZE))


def test_levels_have_policies_of_their_own_or_the_default_one() -> None:
    found = policy(
        """dynamic_batching { priority_levels: 3 default_priority_level: 2
            default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1500 max_queue_size: 7 }
            priority_queue_policy { key: 1 value { allow_timeout_override: true } } }
        parameters { key: "slow_ms" value { string_value: "20" } }"""
    )
    assert (found.levels, found.default_level, found.slo_seconds) == (3, 2, 0)
    assert found.policy_of(3) == LevelPolicy(0.0015, False, True, 7)
    assert found.policy_of(1) == LevelPolicy(0.0, True, False, 0)


@pytest.mark.parametrize(("priority", "level"), [(0, 2), (1, 1), (3, 3), (4, 2), (2**63, 2)])
def test_a_priority_that_is_no_level_is_the_default_one(priority: int, level: int) -> None:
    assert QueuePolicy(levels=3, default_level=2).level_of(priority) == level


def test_without_levels_every_priority_stands_in_the_one_line() -> None:
    assert {QueuePolicy().level_of(priority) for priority in (0, 1, 5)} == {0}


@pytest.mark.parametrize(
    ("given", "wanted", "deadline", "expected"),
    [
        (LevelPolicy(), 0, None, (None, None)),
        (LevelPolicy(), 0.5, None, (10.5, None)),
        (LevelPolicy(may_override=False), 0.5, None, (None, None)),
        (LevelPolicy(1.0), 0.5, None, (10.5, None)),
        (LevelPolicy(1.0), 2.0, None, (11.0, None)),
        (LevelPolicy(1.0), 0, 10.2, (10.2, None)),
        (LevelPolicy(1.0), 0, 99.0, (11.0, None)),
        (LevelPolicy(1.0, is_delayed=True), 0, None, (None, 11.0)),
        (LevelPolicy(1.0, is_delayed=True), 0.5, 10.7, (10.7, 10.5)),
    ],
)
def test_the_least_of_all_timeouts_counts(
    given: LevelPolicy, wanted: float, deadline: float | None, expected: tuple[float | None, float | None]
) -> None:
    request = make_request(timeout_seconds=wanted, deadline=deadline)
    assert QueuePolicy(given).limits(request, 10.0) == expected


def test_an_objective_counts_from_the_arrival_and_only_where_nobody_said_otherwise() -> None:
    one = policy('parameters { key: "slo_ms" value { string_value: "20" } }')
    assert one.limits(make_request(received_at=9.99), 10.0) == (9.99 + 0.02, None)
    assert one.limits(make_request(), 10.0) == (10.02, None)
    assert one.limits(make_request(deadline=12.0), 10.0) == (12.0, None)


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "nan", "inf", "20ms"])
def test_an_objective_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"slo_ms is '.*'; a number of milliseconds above 0 is expected"):
        policy(f'parameters {{ key: "slo_ms" value {{ string_value: "{text}" }} }}')


def test_an_objective_contradicts_a_policy_that_never_refuses() -> None:
    with pytest.raises(InvalidInput, match="DELAY keeps requests however late they are"):
        policy(
            """parameters { key: "slo_ms" value { string_value: "20" } }
            dynamic_batching { default_queue_policy { timeout_action: DELAY } }"""
        )
