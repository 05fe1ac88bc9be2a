"""What a model configuration promises about waiting: levels of priority, timeouts, limits, and the objective."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelQueuePolicy
from service.request import InferRequest

# Requests that may wait where the configuration says nothing: at a thousand a second, a second's worth.
DEFAULT_MAX_QUEUE_SIZE = 1024

SLO_PARAMETER = "slo_ms"

# Of those that requests may ask for; a smaller number is served sooner.
HIGHEST_PRIORITY = 1


@dataclass(slots=True, frozen=True)
class LevelPolicy:
    """How requests of one level of priority wait.

    Attributes:
        timeout_seconds: how long each may wait; 0 for ever.
        may_override: whether a request may lower that for itself.
        is_delayed: one that waited too long runs after all others of its level or a higher one, and is not refused.
        max_size: how many may wait; 0 for any number.
    """

    timeout_seconds: float = 0.0
    may_override: bool = True
    is_delayed: bool = False
    max_size: int = DEFAULT_MAX_QUEUE_SIZE

    def timeout(self, wanted_seconds: float) -> float:
        """The least of what model and request say, 0 for none."""
        timeouts = (self.timeout_seconds, wanted_seconds if self.may_override else 0.0)
        return min((seconds for seconds in timeouts if seconds), default=0.0)


@dataclass(slots=True, frozen=True)
class QueuePolicy:
    """How the requests of one model wait.

    Attributes:
        default: for levels that have no policy of their own.
        levels: of priority, the first is served first; 0 for a single line.
        default_level: of requests that name no level, or one that is not there.
        by_level: policies of single levels.
        slo_seconds: within this time each request is to be answered that has no deadline of its own; 0 for none.
    """

    default: LevelPolicy = field(default_factory=LevelPolicy)
    levels: int = 0
    default_level: int = 0
    by_level: Mapping[int, LevelPolicy] = field(default_factory=dict)
    slo_seconds: float = 0.0

    @property
    def steps_back(self) -> bool:
        """Whether a request may lose its place in line while it waits."""
        return any(policy.is_delayed for policy in (self.default, *self.by_level.values()))

    def level_of(self, priority: int) -> int:
        """The level that serves a request of this priority, as Triton takes it."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_of(self, level: int) -> LevelPolicy:
        """How the requests of one level wait."""
        return self.by_level.get(level, self.default)

    def limits(self, request: InferRequest, now: float) -> tuple[float | None, float | None]:
        """When a request is of no use any more, and when it has to step back behind the others; None for never."""
        policy = self.policy_of(self.level_of(request.priority))
        deadline, delay_at = request.deadline, None
        seconds = policy.timeout(request.timeout_seconds)
        if seconds and policy.is_delayed:
            delay_at = now + seconds
        elif seconds:
            deadline = now + seconds if deadline is None else min(deadline, now + seconds)
        if deadline is None and self.slo_seconds:
            deadline = (request.received_at or now) + self.slo_seconds
        return deadline, delay_at


def queue_policy_from_config(config: ModelConfig) -> QueuePolicy:
    """Read what a complete configuration asks for.

    Raises:
        InvalidInput: the objective is not a time, or contradicts a policy that never refuses.
    """
    batching = config.dynamic_batching
    has_default = batching.HasField("default_queue_policy")
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    slo_seconds = _slo_seconds(config)
    if slo_seconds and any(policy.timeout_action == ModelQueuePolicy.DELAY for policy in policies):
        raise InvalidInput(
            f"model '{config.name}': timeout_action DELAY keeps requests however late they are, and {SLO_PARAMETER} "
            "refuses those that would be late; remove one of them."
        )
    return QueuePolicy(
        default=_level(batching.default_queue_policy) if has_default else LevelPolicy(),
        levels=batching.priority_levels,
        default_level=batching.default_priority_level if batching.priority_levels else 0,
        by_level={level: _level(policy) for level, policy in batching.priority_queue_policy.items()},
        slo_seconds=slo_seconds,
    )


def _level(policy: ModelQueuePolicy) -> LevelPolicy:
    return LevelPolicy(
        timeout_seconds=policy.default_timeout_microseconds / 1e6,
        may_override=policy.allow_timeout_override,
        is_delayed=policy.timeout_action == ModelQueuePolicy.DELAY,
        max_size=policy.max_queue_size,
    )


def _slo_seconds(config: ModelConfig) -> float:
    if SLO_PARAMETER not in config.parameters:
        return 0.0
    text = config.parameters[SLO_PARAMETER].string_value
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise InvalidInput(
            f"model '{config.name}': parameter {SLO_PARAMETER} is '{text[:40]}'; a number of milliseconds above 0 is "
            "expected, such as 20."
        )
    return milliseconds / 1000
