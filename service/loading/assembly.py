"""From a loaded version to what serves it: the one place that knows every kind of model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from enginehouse.errors import NotFound
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.ragged_config import derived_from_config
from service.clock import Clock
from service.ensembles.ensemble import EnsembleModel
from service.ensembles.ensemble_binding import Resolve
from service.ensembles.ensemble_rules import is_ensemble
from service.loaded import LoadedVersion
from service.loading.opening import close_all
from service.metrics.metrics_options import MetricsOptions, buckets_from_config
from service.python_models.python_serving import PythonServing
from service.request import Infer, InferRequest, Settle
from service.scheduling.batcher import Batcher
from service.scheduling.computation import Computation, TensorComputation
from service.scheduling.objective import objective_of
from service.scheduling.queue import deliver
from service.scheduling.queue_policy import DEFAULT_MAX_QUEUE_SIZE, queue_policy_from_config
from service.scheduling.ragged import BatchInputs
from service.scheduling.rate_limiter import Permit, RateLimiter, needs_from_config
from service.scheduling.rows import Layout
from service.scheduling.scheduler import Hooks, Scheduler
from service.sequences.sequence import SequenceBatcher
from service.sequences.sequence_computation import SequenceComputation, sequence_rules
from service.sequences.sequence_model import SequenceModel
from service.sequences.sequence_policy import sequence_policy_from_config
from service.served import Served
from service.served_model import ServedModel, layout_from_config, policy_from_config
from service.statistics.calibration_drift import CalibrationDrift, WatchedComputation
from service.statistics.statistics import ModelStatistics, StatisticsTable

_log = logging.getLogger(__name__)


def _refuse(request: InferRequest, settle: Settle) -> None:
    reason = NotFound(f"Request for unknown model: '{request.model_name[:100]}' is not found; no other model is here")
    deliver(settle, reason, request.model_name)


def _unknown(name: str, version: str) -> Served:
    raise NotFound(f"model '{name}' version '{version}' is not found; no other model is here")


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all models of one server share.

    Attributes:
        infer: asks any model of the server, for models that are made of others.
        resolve: finds what answers for a name and a version.
        statistics: of each version, across its reloads.
        metrics: what is kept of latencies besides.
        has_response_cache: whether answers of models that ask for it are kept.
        rate_limiter: shares resources among instances; None lets each run when it can.
        sequence_models: by name, those that serve and those that let their last sequences end.
        on_presence: told whenever the processes of a version are gone, or back.
    """

    clock: Clock
    infer: Infer = _refuse
    resolve: Resolve = _unknown
    statistics: StatisticsTable = field(default_factory=StatisticsTable)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    has_response_cache: bool = False
    rate_limiter: RateLimiter | None = None
    sequence_models: dict[str, list[SequenceModel]] = field(default_factory=dict)
    on_presence: Callable[[], None] = lambda: None


def serve_version(loaded: LoadedVersion, surroundings: Surroundings) -> Served:
    """Build what answers for a version, on the thread that owns the queues; one that cannot be is closed.

    Raises:
        Error: something beside the engine is wrong, such as the file of an initial state.
    """
    try:
        served = _serve(loaded, surroundings)
        if isinstance(served, ServedModel):
            served.watch_presence(surroundings.on_presence)
        return served
    except BaseException:
        close_all(loaded.engines)
        raise


def _serve(loaded: LoadedVersion, surroundings: Surroundings) -> Served:
    config = loaded.config
    if config.response_cache.enable and not surroundings.has_response_cache:
        _log.warning("model '%s' asks for the response cache; there is none without --cache-config", config.name)
    if is_ensemble(config):
        return EnsembleModel(
            loaded,
            surroundings.clock,
            surroundings.infer,
            surroundings.resolve,
            _statistics(loaded, surroundings),
        )
    layout = layout_from_config(config)
    if config.HasField("sequence_batching"):
        return _serve_sequences(loaded, surroundings, layout)
    derive = BatchInputs(derived_from_config(config)) if config.batch_input else None

    policy = policy_from_config(config)
    queue_policy = queue_policy_from_config(config)
    objective = objective_of(loaded, policy, queue_policy.slo_seconds, surroundings.clock)
    permits = _permits(config, surroundings)

    def make_scheduler(clock: Clock, hooks: Hooks) -> Scheduler:
        return Batcher(policy, queue_policy, clock, hooks, objective, permits)

    statistics = _statistics(loaded, surroundings)
    if config.backend == "python":
        python = PythonServing(loaded, surroundings.clock, surroundings.infer, layout, statistics)
        make = python.around(make_scheduler)
        return ServedModel(loaded, surroundings.clock, make, python.compute, statistics)
    return ServedModel(
        loaded,
        surroundings.clock,
        make_scheduler,
        lambda engine: _watched(TensorComputation(engine, layout, derive), statistics),
        statistics,
    )


def _serve_sequences(loaded: LoadedVersion, surroundings: Surroundings, layout: Layout) -> Served:
    config = loaded.config
    rules = sequence_rules(config, loaded.directory.parent)
    permits = _permits(config, surroundings)

    def make_batcher(clock: Clock, hooks: Hooks) -> SequenceBatcher:
        policy = sequence_policy_from_config(config)
        return SequenceBatcher(config.name, policy, DEFAULT_MAX_QUEUE_SIZE, clock, hooks, permits)

    statistics = _statistics(loaded, surroundings)
    family = surroundings.sequence_models.setdefault(config.name, [])
    if config.backend == "python":
        python = PythonServing(loaded, surroundings.clock, surroundings.infer, layout, statistics)
        return SequenceModel(
            loaded, surroundings.clock, make_batcher, python.compute, statistics, family, python.around
        )
    return SequenceModel(
        loaded,
        surroundings.clock,
        make_batcher,
        lambda engine: _watched(SequenceComputation(engine, layout, rules), statistics),
        statistics,
        family,
    )


def _statistics(loaded: LoadedVersion, surroundings: Surroundings) -> ModelStatistics:
    """What was counted of the version before, and all that is to be kept from now on."""
    counted = surroundings.statistics.of(loaded.config.name, str(loaded.version))
    if surroundings.metrics.has_summaries:
        counted.summarize()
    if surroundings.metrics.has_histograms:
        counted.measure_first_response(buckets_from_config(loaded.config))
    counted.drift = CalibrationDrift(loaded.calibrated) if loaded.calibrated else None
    return counted


def _watched(computation: Computation, statistics: ModelStatistics) -> Computation:
    return computation if statistics.drift is None else WatchedComputation(computation, statistics.drift)


def _permits(config: ModelConfig, surroundings: Surroundings) -> list[Permit]:
    limiter = surroundings.rate_limiter
    return [] if limiter is None else limiter.join(needs_from_config(config))
