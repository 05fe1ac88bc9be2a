"""From a loaded version to what serves it: the one place that knows every kind of model."""

from dataclasses import dataclass

from enginehouse.errors import NotFound
from service.batcher import Batcher
from service.clock import Clock
from service.computation import TensorComputation
from service.loaded import LoadedVersion
from service.queue import deliver
from service.request import Infer, InferRequest, Settle
from service.scheduler import Hooks, Scheduler
from service.served import Served
from service.served_model import ServedModel, layout_from_config, max_queue_size_from_config, policy_from_config


def _refuse(request: InferRequest, settle: Settle) -> None:
    reason = NotFound(f"Request for unknown model: '{request.model_name[:100]}' is not found; no other model is here")
    deliver(settle, reason, request.model_name)


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all models of one server share.

    Attributes:
        infer: asks any model of the server, for models that are made of others.
    """

    clock: Clock
    infer: Infer = _refuse


def serve_version(loaded: LoadedVersion, surroundings: Surroundings) -> Served:
    """Build what answers for a version, on the thread that owns the queues."""
    config = loaded.config
    layout = layout_from_config(config)

    def make_scheduler(clock: Clock, hooks: Hooks) -> Scheduler:
        return Batcher(policy_from_config(config), max_queue_size_from_config(config), clock, hooks)

    return ServedModel(loaded, surroundings.clock, make_scheduler, lambda engine: TensorComputation(engine, layout))
