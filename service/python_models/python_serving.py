"""What a Python model needs besides an engine and a queue: a way to other models, and an eye on what stays open."""

from enginehouse.engine import Engine
from enginehouse.python_engine import PythonEngine
from enginehouse.sequence_config import controls_from_config
from service.clock import Clock
from service.loaded import LoadedVersion
from service.python_models.model_calls import ModelCalls
from service.python_models.open_requests import OpenRequests
from service.python_models.request_computation import RequestComputation
from service.request import Infer
from service.scheduling.rows import Layout
from service.scheduling.scheduler import Hooks, MakeScheduler, Scheduler
from service.served_model import ServedModel
from service.statistics.statistics import ModelStatistics


def serve_python(
    loaded: LoadedVersion,
    clock: Clock,
    infer: Infer,
    layout: Layout,
    make_scheduler: MakeScheduler,
    statistics: ModelStatistics,
) -> ServedModel:
    """Serve a version whose engines are Python models; the scheduler decides as for any other."""
    calls = ModelCalls(clock, infer)
    opened: list[OpenRequests] = []

    def make(own_clock: Clock, hooks: Hooks) -> Scheduler:
        if not loaded.config.model_transaction_policy.decoupled:
            return make_scheduler(own_clock, hooks)
        opened.append(OpenRequests(make_scheduler, own_clock, hooks))
        return opened[0]

    def compute(engine: Engine) -> RequestComputation:
        assert isinstance(engine, PythonEngine)
        engine.connect(calls.ask)
        finish = opened[0].finish if opened else None
        controls = controls_from_config(loaded.config)
        return RequestComputation(engine, layout, str(loaded.version), clock, finish, controls, statistics.responses)

    return ServedModel(loaded, clock, make, compute, statistics)
