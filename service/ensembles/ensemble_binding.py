"""An ensemble over whatever answers for its steps now: planned again when one of them was exchanged for another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from enginehouse.config_rules import check_config
from enginehouse.errors import Error, NotReady
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.ensembles.ensemble_plan import EnsemblePlan, Route, plan_from_config, version_text
from service.scheduling.queue_policy import QueuePolicy, queue_policy_from_config

Labels = Mapping[str, Sequence[str]]


class Described(Protocol):
    """What an ensemble has to know of a model that answers."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def absence(self) -> str: ...


Resolve = Callable[[str, str], Described]
"""Finds what answers for a name and a version, empty for the newest; raises `NotFound` or `NotReady`."""


class EnsembleBinding:
    """The plan that holds now.

    Attributes:
        plan: of the steps.
        route: through the plan, for a request that wants all outputs.
        config: of the ensemble; decoupled if a step is.
        labels: of its outputs; what it says nothing of is called what the step that gives it calls it.
        levels: of priority, at its entry as at the first of its steps that has any.

    Raises:
        InvalidInput: a step does not answer, or does not fit.
    """

    plan: EnsemblePlan
    route: Route
    config: ModelConfig
    labels: Labels
    levels: QueuePolicy

    def __init__(self, config: ModelConfig, labels: Labels, resolve: Resolve) -> None:
        self._own_config = config
        self._own_labels = labels
        self._resolve = resolve
        self._steps = [(step.model_name, version_text(step)) for step in config.ensemble_scheduling.step]
        self._bind()

    @property
    def absence(self) -> str:
        """Why a step computes nothing now; empty if all do."""
        for name, version in self._steps:
            try:
                absence = self._resolve(name, version).absence
            except Error as problem:
                absence = str(problem)
            if absence:
                return f"step '{name}' does not answer: {absence}"
        return ""

    def hold(self) -> None:
        """Make sure that the plan is of the models that answer now.

        Raises:
            NotReady: one of them does not, or does not fit any more.
        """
        try:
            # By identity: a model that was loaded again has a configuration of its own, be it the same in every word.
            known = zip(self._steps, self._bound_to, strict=True)
            if all(self._resolve(*step).config is config for step, config in known):
                return
            self._bind()
        except Error as problem:
            raise NotReady(f"ensemble '{self._own_config.name}' cannot answer now: {problem}") from problem

    def _bind(self) -> None:
        plan = plan_from_config(self._own_config, lambda name, version: self._resolve(name, version).config)
        self.config = _with_transaction_policy(self._own_config, plan)
        self.plan = plan
        self.route = plan.route(())
        models = [self._resolve(*step) for step in self._steps]
        self._bound_to = [model.config for model in models]
        ordered = (model.config for model in models if model.config.dynamic_batching.priority_levels)
        self.levels = queue_policy_from_config(next(ordered, self._own_config))
        self.labels = {
            **{
                tensor: model.labels[output]
                for step, model in zip(plan.steps, models, strict=True)
                for output, tensor in step.outputs.items()
                if output in model.labels
            },
            **self._own_labels,
        }


def _with_transaction_policy(config: ModelConfig, plan: EnsemblePlan) -> ModelConfig:
    """An ensemble is decoupled if a step of it is; raises `InvalidInput` for what it then cannot be."""
    completed = ModelConfig()
    completed.CopyFrom(config)
    if plan.is_decoupled:
        completed.model_transaction_policy.decoupled = True
    else:
        completed.ClearField("model_transaction_policy")
    check_config(completed)
    return completed
