"""A model of sequences that is loaded again lets those end that began before."""

from pathlib import Path
from typing import Any

import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.errors import NotReady
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from service.clock import FakeClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.sequences.sequence_model import SequenceModel
from tests.service.conftest import Answers, Y, stay_inline
from tests.service.sequence_bench import INPUTS, NEW_SUM, accumulate, config, step


class Generations:
    """One model, loaded again and again; requests go to the newest."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.surroundings = Surroundings(self.clock)
        self.models: list[SequenceModel] = []
        self.answers = Answers()
        self.drained: list[SequenceModel] = []

    def load(self) -> SequenceModel:
        parsed = config_from_text(config(), "m")
        complete_platform(parsed, ["model.onnx"])
        complete_config(parsed, INPUTS, (Y, NEW_SUM))
        engine = FakeEngine(INPUTS, (Y, NEW_SUM), accumulate)
        model = serve_version(LoadedVersion(parsed, len(self.models) + 1, Path(), [engine], 0.5), self.surroundings)
        assert isinstance(model, SequenceModel)
        for instance in model._instances:
            stay_inline(instance)
        self.models.append(model)
        return model

    def drain(self, model: SequenceModel) -> None:
        model.drain(lambda: self.drained.append(model))
        self.clock.run_ready()

    def ask(self, key: str, *arguments: Any) -> None:
        self.models[-1].infer(step(*arguments), self.answers.settle(key))
        self.clock.run_ready()

    def version(self, key: str) -> str:
        (answer,) = self.answers.of[key]
        return answer.model_version  # type: ignore[union-attr]


@pytest.fixture
def generations() -> Any:
    made = Generations()
    yield made
    for model in made.models:
        model.close()


def test_an_open_sequence_ends_on_the_version_it_began_with(generations: Generations) -> None:
    old = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.load()
    generations.drain(old)
    generations.ask("b", 1, 2)
    generations.ask("other", 2, 7, "s")
    assert generations.drained == []
    generations.ask("c", 1, 3, "e")
    assert generations.drained == [old]
    assert [generations.answers.values(key) for key in "abc"] == [[1], [3], [6]]
    assert [generations.version(key) for key in ("a", "b", "c", "other")] == ["1", "1", "1", "2"]
    generations.ask("again", 1, 1)
    assert "must specify the START flag" in str(generations.answers.error("again"))


def test_one_that_starts_again_starts_on_the_new_version(generations: Generations) -> None:
    old = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.load()
    generations.drain(old)
    generations.ask("b", 1, 5, "s")
    generations.ask("c", 1, 5)
    assert [generations.version(key) for key in ("b", "c")] == ["2", "2"]
    assert generations.answers.values("c") == [10]


def test_a_sequence_that_does_not_come_back_keeps_nobody(generations: Generations) -> None:
    old = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.load()
    generations.drain(old)
    generations.clock.advance(0.9)
    assert generations.drained == []
    generations.clock.advance(0.2)
    assert generations.drained == [old]


def test_without_a_successor_nothing_is_waited_for(generations: Generations) -> None:
    only = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.drain(only)
    assert generations.drained == [only]
    generations.ask("b", 1, 1)
    assert isinstance(generations.answers.error("b"), NotReady)


def test_who_is_abandoned_ends_its_sequences(generations: Generations) -> None:
    old = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.load()
    generations.drain(old)
    old.abandon()
    generations.clock.run_ready()
    assert generations.drained == [old]
    generations.ask("b", 1, 1)
    assert "must specify the START flag" in str(generations.answers.error("b"))


def test_a_request_with_a_wrong_parameter_is_refused_as_ever(generations: Generations) -> None:
    old = generations.load()
    generations.ask("a", 1, 1, "s")
    generations.load()
    generations.drain(old)
    request = step(1, 1, "", parameters={"sequence_start": "yes"})
    assert generations.models[-1].infer(request, generations.answers.settle("b")) is None
    assert "parameter 'sequence_start' is 'yes'" in str(generations.answers.error("b"))
