"""From a loaded version to what serves it: the one place that knows every kind of model."""

from dataclasses import dataclass

from enginehouse.errors import NotFound
from enginehouse.ragged_config import derived_from_config
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.batcher import Batcher
from service.clock import Clock
from service.computation import TensorComputation
from service.ensemble import EnsembleModel
from service.ensemble_plan import ConfigOf, plan_from_config
from service.ensemble_rules import is_ensemble
from service.loaded import LoadedVersion
from service.queue import deliver
from service.ragged import BatchInputs
from service.request import Infer, InferRequest, Settle
from service.rows import Layout
from service.scheduler import Hooks, Scheduler
from service.sequence import SequenceBatcher
from service.sequence_computation import SequenceComputation, sequence_rules
from service.sequence_policy import sequence_policy_from_config
from service.served import Served
from service.served_model import (
    DEFAULT_MAX_QUEUE_SIZE,
    ServedModel,
    layout_from_config,
    max_queue_size_from_config,
    policy_from_config,
)
from service.statistics import ModelStatistics


def _refuse(request: InferRequest, settle: Settle) -> None:
    reason = NotFound(f"Request for unknown model: '{request.model_name[:100]}' is not found; no other model is here")
    deliver(settle, reason, request.model_name)


def _unknown(name: str, version: str) -> ModelConfig:
    raise NotFound(f"model '{name}' version '{version}' is not found; no other model is here")


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all models of one server share.

    Attributes:
        infer: asks any model of the server, for models that are made of others.
        config_of: the complete configuration of a model that answers.
    """

    clock: Clock
    infer: Infer = _refuse
    config_of: ConfigOf = _unknown


def serve_version(loaded: LoadedVersion, surroundings: Surroundings) -> Served:
    """Build what answers for a version, on the thread that owns the queues."""
    config = loaded.config
    if is_ensemble(config):
        plan = plan_from_config(config, surroundings.config_of)
        return EnsembleModel(loaded, plan, surroundings.clock, surroundings.infer, ModelStatistics())
    layout = layout_from_config(config)
    if config.HasField("sequence_batching"):
        return _serve_sequences(loaded, surroundings, layout)
    derive = BatchInputs(derived_from_config(config)) if config.batch_input else None

    def make_scheduler(clock: Clock, hooks: Hooks) -> Scheduler:
        return Batcher(policy_from_config(config), max_queue_size_from_config(config), clock, hooks)

    return ServedModel(
        loaded, surroundings.clock, make_scheduler, lambda engine: TensorComputation(engine, layout, derive)
    )


def _serve_sequences(loaded: LoadedVersion, surroundings: Surroundings, layout: Layout) -> Served:
    config = loaded.config
    rules = sequence_rules(config, loaded.directory.parent)

    def make_scheduler(clock: Clock, hooks: Hooks) -> Scheduler:
        policy = sequence_policy_from_config(config)
        return SequenceBatcher(config.name, policy, DEFAULT_MAX_QUEUE_SIZE, clock, hooks)

    return ServedModel(
        loaded, surroundings.clock, make_scheduler, lambda engine: SequenceComputation(engine, layout, rules)
    )
