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
from service.statistics.statistics import ModelStatistics


class PythonServing:
    """What schedules and computes for one version of a Python model.

    Args:
        infer: asks other models.
        layout: of the model's tensors.
        statistics: of the version.
    """

    def __init__(
        self, loaded: LoadedVersion, clock: Clock, infer: Infer, layout: Layout, statistics: ModelStatistics
    ) -> None:
        self._loaded = loaded
        self._clock = clock
        self._calls = ModelCalls(clock, infer)
        self._layout = layout
        self._statistics = statistics
        self._open_requests: OpenRequests | None = None

    def around(self, make_scheduler: MakeScheduler) -> MakeScheduler:
        """The scheduler decides as for any other model; what a decoupled one still has to answer is kept besides."""
        if not self._loaded.config.model_transaction_policy.decoupled:
            return make_scheduler

        def make(clock: Clock, hooks: Hooks) -> Scheduler:
            self._open_requests = OpenRequests(make_scheduler, clock, hooks)
            return self._open_requests

        return make

    def compute(self, engine: Engine) -> RequestComputation:
        """What runs on an instance; called after its scheduler was made."""
        assert isinstance(engine, PythonEngine)
        engine.connect(self._calls.ask)
        return RequestComputation(
            engine,
            self._layout,
            str(self._loaded.version),
            self._clock,
            None if self._open_requests is None else self._open_requests.finish,
            controls_from_config(self._loaded.config),
            self._statistics.responses,
        )
