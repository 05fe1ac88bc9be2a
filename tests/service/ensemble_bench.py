"""An ensemble on a bench: steps that answer when a test says so, and everybody who asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginehouse.errors import Error
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import FakeClock
from service.ensembles.ensemble import EnsembleModel
from service.loaded import LoadedVersion
from service.request import Admitted, InferRequest, InferResponse, WireTensor
from service.statistics.statistics import ModelStatistics
from tests.service.fake_steps import FakeSteps, ensemble_config, numbers, step_config, step_text

DECOUPLED = "model_transaction_policy { decoupled: true }"
CHAIN = [step_text("a", {"x": "in"}, {"y": "p"}), step_text("b", {"x": "p"}, {"y": "out"})]
DIAMOND = [
    step_text("a", {"x": "in"}, {"y": "p"}),
    step_text("b", {"x": "p"}, {"y": "q"}),
    step_text("c", {"x": "p"}, {"y": "r"}),
    step_text("d", {"x": "q", "z": "r"}, {"y": "out"}),
]


class Bench:
    """One ensemble over steps that answer when the test says so, and everybody who asked it something."""

    def __init__(self, config: ModelConfig, *models: ModelConfig) -> None:
        self.steps = FakeSteps().add(*models)
        self.clock = FakeClock()
        self.answers: dict[str, list[InferResponse | Error]] = {}
        self.emitted: list[list[int]] = []
        loaded = LoadedVersion(config, 1, Path(), (), 0.0)
        statistics = ModelStatistics()
        self.model = EnsembleModel(loaded, self.clock, self.steps.infer, self.steps.resolve, statistics)

    def ask(self, key: str = "one", inputs: Sequence[WireTensor] = (), **fields: Any) -> Admitted | None:
        self.answers[key] = []
        inputs = tuple(inputs or [numbers("in", [1])])
        return self.model.infer(InferRequest("e", "", inputs, **fields), self.answers[key].append)

    def stream(self, key: str = "one") -> Admitted | None:
        return self.ask(key, emit=lambda response: self.emitted.append(list(response.outputs[0].data)))

    def outputs(self, key: str = "one") -> dict[str, list[int]]:
        (answer,) = self.answers[key]
        assert isinstance(answer, InferResponse), answer
        return {tensor.name: list(tensor.data) for tensor in answer.outputs}

    def error(self, key: str = "one") -> Error:
        (answer,) = self.answers[key]
        assert isinstance(answer, Error), answer
        return answer

    def is_empty(self) -> bool:
        self.clock.run_ready()
        return not self.steps.open and not self.model._running and not self.model._line


def chain(more: str = "", scheduling: str = "") -> Bench:
    return Bench(ensemble_config(CHAIN, more=more, scheduling=scheduling), step_config("a"), step_config("b"))


def diamond() -> Bench:
    models = [*map(step_config, "abc"), step_config("d", inputs=("x", "z"))]
    return Bench(ensemble_config(DIAMOND), *models)
