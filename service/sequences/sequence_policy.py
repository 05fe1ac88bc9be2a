"""The pure choice of which sequences run next on one instance: a function of their heads, the policy and the time."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from enginehouse.dtype import DType
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.sequence_config import CORRID, controls_from_config


class Head(Protocol):
    """What the choice must know of the request at the head of a sequence."""

    @property
    def shape_key(self) -> Hashable: ...
    @property
    def queued_at(self) -> float: ...


@dataclass(slots=True, frozen=True)
class SequencePolicy:
    """How sequences get their turn.

    Attributes:
        is_direct: whether each sequence owns a row of the batch; if not, the oldest requests run together.
        places: sequences that one instance serves at a time; further ones wait until one of them ends.
        max_batch_rows: requests that may run together.
        max_idle_seconds: how long a sequence may be without a request before it is ended.
        max_queue_delay_seconds: how long the oldest request may wait for company while its instance is idle.
        least_share: share of the rows that is worth running at once (direct).
        preferred_rows: sizes that run at once, ascending (oldest).
        id_dtype: what the engine takes ids as; None if it takes none.
    """

    is_direct: bool
    places: int
    max_batch_rows: int
    max_idle_seconds: float
    max_queue_delay_seconds: float = 0.0
    least_share: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    id_dtype: DType | None = None


@dataclass(slots=True, frozen=True)
class Choice:
    """What runs now, as positions in the list of heads; nothing before `wait_seconds` if that is above 0."""

    positions: tuple[int, ...] = ()
    wait_seconds: float = 0.0


def sequence_policy_from_config(config: ModelConfig) -> SequencePolicy:
    """The policy that a complete configuration asks for."""
    batching = config.sequence_batching
    rows = max(1, config.max_batch_size)
    is_direct = not batching.HasField("oldest")
    delay = batching.direct if is_direct else batching.oldest
    id_dtype = next((control.dtype for control in controls_from_config(config) if control.kind == CORRID), None)
    return SequencePolicy(
        is_direct=is_direct,
        places=rows if is_direct else batching.oldest.max_candidate_sequences or rows,
        max_batch_rows=rows,
        max_idle_seconds=batching.max_sequence_idle_microseconds / 1e6,
        max_queue_delay_seconds=delay.max_queue_delay_microseconds / 1e6,
        least_share=batching.direct.minimum_slot_utilization,
        preferred_rows=tuple(sorted(batching.oldest.preferred_batch_size)),
        id_dtype=id_dtype,
    )


def choose(heads: Sequence[Head], policy: SequencePolicy, now: float) -> Choice:
    """Choose among the heads of the sequences of one idle instance; there is at least one.

    The oldest request always runs next, so no sequence is passed over for ever; those of its shape run with it.
    """
    by_age = sorted(range(len(heads)), key=lambda position: heads[position].queued_at)
    oldest = heads[by_age[0]]
    company = [position for position in by_age if heads[position].shape_key == oldest.shape_key]
    patience = oldest.queued_at + policy.max_queue_delay_seconds - now
    if policy.is_direct:
        if patience > 0 and len(heads) / policy.max_batch_rows < policy.least_share:
            return Choice(wait_seconds=patience)
        return Choice(tuple(sorted(company)))
    company = company[: policy.max_batch_rows]
    reached = [rows for rows in policy.preferred_rows if rows <= len(company)]
    if reached:
        return Choice(tuple(company[: reached[-1]]))
    if patience > 0:
        return Choice(wait_seconds=patience)
    return Choice(tuple(company))
