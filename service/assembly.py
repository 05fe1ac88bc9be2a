"""From a loaded version to what serves it: the one place that knows every kind of model."""

from dataclasses import dataclass

from service.batcher import Batcher
from service.clock import Clock
from service.computation import TensorComputation
from service.loaded import LoadedVersion
from service.scheduler import Hooks, Scheduler
from service.served import Served
from service.served_model import ServedModel, layout_from_config, max_queue_size_from_config, policy_from_config


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all models of one server share."""

    clock: Clock


def serve_version(loaded: LoadedVersion, surroundings: Surroundings) -> Served:
    """Build what answers for a version, on the thread that owns the queues."""
    config = loaded.config
    layout = layout_from_config(config)

    def make_scheduler(clock: Clock, hooks: Hooks) -> Scheduler:
        return Batcher(policy_from_config(config), max_queue_size_from_config(config), clock, hooks)

    return ServedModel(loaded, surroundings.clock, make_scheduler, lambda engine: TensorComputation(engine, layout))
