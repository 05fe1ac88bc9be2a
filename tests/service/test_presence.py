"""A version whose engines are all in processes that have ended is not there, until one of them is back."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.engine import Engine
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from service import describe
from service.clock import FakeClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.presence import Presence
from service.registry import READY, Registry
from service.served import Served
from tests.service.conftest import X, Y, tenfold


class EngineElsewhere(FakeEngine):
    """An engine whose process ends and starts when a test says so."""

    def __init__(self) -> None:
        super().__init__((X,), (Y,), tenfold)
        self.absence = ""
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    def become(self, absence: str) -> None:
        self.absence = absence
        for callback in self._watchers:
            callback()


def follow(clock: FakeClock, *engines: Engine) -> tuple[Presence, list[str]]:
    changes: list[str] = []
    presence = Presence("it", engines, clock)
    presence.watch(lambda: changes.append(presence.absence))
    return presence, changes


def test_a_version_is_there_as_long_as_one_engine_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock, one, other = FakeClock(), EngineElsewhere(), EngineElsewhere()
    presence, changes = follow(clock, one, other)
    one.become("one is gone")
    clock.run_ready()
    assert (presence.absence, changes, caplog.messages) == ("", [], [])
    other.become("other is gone")
    assert presence.absence == "one is gone"
    clock.run_ready()
    one.become("one is still gone")
    clock.run_ready()
    assert changes == ["one is gone"]
    other.become("")
    clock.run_ready()
    assert changes == ["one is gone", ""]
    assert caplog.messages == ["it is not ready: one is gone", "it is ready again"]


def test_an_engine_in_the_servers_own_process_is_always_there() -> None:
    clock, one = FakeClock(), EngineElsewhere()
    presence, changes = follow(clock, one, FakeEngine((X,), (Y,), tenfold))
    one.become("gone")
    clock.run_ready()
    assert (presence.absence, changes) == ("", [])
    assert follow(clock)[0].absence == "", "what has no engines lacks none"


def test_what_comes_back_before_anybody_looked_was_never_gone(caplog: pytest.LogCaptureFixture) -> None:
    clock, one = FakeClock(), EngineElsewhere()
    _, changes = follow(clock, one)
    one.become("gone")
    one.become("")
    clock.run_ready()
    assert (changes, caplog.messages) == ([], [])


def test_the_end_of_a_version_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    clock, one = FakeClock(), EngineElsewhere()
    presence, changes = follow(clock, one)
    one.become("gone")
    presence.end()
    one.become("gone for good")
    clock.run_ready()
    assert (changes, caplog.messages) == ([], [])


def test_a_version_whose_engines_are_gone_is_unavailable_in_the_index_and_says_why() -> None:
    config = config_from_text("max_batch_size: 4", "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, (X,), (Y,))
    clock, engine, told = FakeClock(), EngineElsewhere(), [0]

    def tell() -> None:
        told[0] += 1

    served = serve_version(LoadedVersion(config, 1, Path(), [engine], 0.5), Surroundings(clock, on_presence=tell))
    registry = Registry()
    registry.replace("m", [served])
    registry.set_state("m", 1, READY, "a note")
    assert row(registry) == ("READY", "a note")
    engine.become("killed; it starts again in 0.1 s.")
    clock.run_ready()
    assert row(registry) == ("UNAVAILABLE", "killed; it starts again in 0.1 s.")
    assert not describe.repository_index(registry, ["m"], only_ready=True).models
    assert not registry.is_answering("m")
    engine.become("")
    clock.run_ready()
    assert row(registry) == ("READY", "a note")
    assert registry.is_answering("m")
    assert told == [2]
    end(served)


def row(registry: Registry) -> tuple[str, str]:
    (found,) = describe.repository_index(registry, ["m"], only_ready=False).models
    return found.state, found.reason


def end(served: Served) -> None:
    served.drain(lambda: None)
    served.close()
