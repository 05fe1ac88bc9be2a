"""Which sequences run next follows from their heads, the policy and the time, and from nothing else."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.model_config import config_from_text
from service.sequences.sequence_policy import Choice, SequencePolicy, choose, sequence_policy_from_config

DIRECT = SequencePolicy(is_direct=True, places=4, max_batch_rows=4, max_idle_seconds=1)
OLDEST = SequencePolicy(is_direct=False, places=8, max_batch_rows=2, max_idle_seconds=1)


@dataclass(frozen=True)
class Head:
    queued_at: float
    shape_key: object = None


def test_the_direct_strategy_runs_every_sequence_that_has_a_request() -> None:
    assert choose([Head(2), Head(1), Head(3)], DIRECT, 3) == Choice((0, 1, 2))


def test_the_oldest_strategy_runs_the_oldest_requests() -> None:
    assert choose([Head(2), Head(1), Head(3)], OLDEST, 3) == Choice((1, 0))


@pytest.mark.parametrize("policy", [DIRECT, OLDEST])
def test_other_shapes_wait_for_the_oldest_ones_to_run(policy: SequencePolicy) -> None:
    heads = [Head(2, "long"), Head(1, "short"), Head(3, "long")]
    assert choose(heads, policy, 3).positions == (1,)


def test_a_share_that_is_reached_runs_at_once_and_one_that_is_not_waits() -> None:
    policy = SequencePolicy(True, 4, 4, 1, max_queue_delay_seconds=0.5, least_share=0.5)
    assert choose([Head(1)], policy, 1.25) == Choice(wait_seconds=0.25)
    assert choose([Head(1), Head(1)], policy, 1.2) == Choice((0, 1))
    assert choose([Head(1)], policy, 1.5) == Choice((0,))


def test_a_preferred_size_runs_at_once() -> None:
    policy = SequencePolicy(False, 8, 8, 1, max_queue_delay_seconds=0.5, preferred_rows=(2, 4))
    assert choose([Head(1)], policy, 1) == Choice(wait_seconds=0.5)
    assert choose([Head(n) for n in range(3)], policy, 0) == Choice((0, 1))
    assert choose([Head(n) for n in range(6)], policy, 0) == Choice((0, 1, 2, 3))


@given(
    heads=st.lists(st.builds(Head, st.floats(0, 10), st.sampled_from("ab")), min_size=1, max_size=9),
    policy=st.sampled_from([DIRECT, OLDEST]),
)
def test_the_oldest_request_always_runs(heads: list[Head], policy: SequencePolicy) -> None:
    """So nobody starves, whatever else is sent."""
    chosen = [heads[position] for position in choose(heads, policy, 10).positions]
    assert min(head.queued_at for head in heads) in [head.queued_at for head in chosen]
    assert len({head.shape_key for head in chosen}) == 1


def test_the_policy_is_what_the_configuration_says() -> None:
    direct = config_from_text(
        "max_batch_size: 8 sequence_batching { max_sequence_idle_microseconds: 2000000 direct "
        "{ minimum_slot_utilization: 0.5 max_queue_delay_microseconds: 1000 } }",
        "m",
    )
    assert sequence_policy_from_config(direct) == SequencePolicy(True, 8, 8, 2.0, 0.001, 0.5)
    oldest = config_from_text(
        "max_batch_size: 8 sequence_batching { oldest { preferred_batch_size: [ 4, 2 ] max_candidate_sequences: 3 } "
        'control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } } }',
        "m",
    )
    policy = sequence_policy_from_config(oldest)
    assert (policy.is_direct, policy.places, policy.preferred_rows) == (False, 3, (2, 4))
    assert policy.id_dtype is not None
    assert policy.id_dtype.name == "BYTES"
    assert sequence_policy_from_config(config_from_text("sequence_batching { oldest { } }", "m")).places == 1
