"""From name and version to what serves it, and why something does not."""

from typing import cast

import pytest

from enginehouse.errors import InvalidInput, NotFound, NotReady
from service.registry import LOADING, READY, UNAVAILABLE, Registry, VersionState
from service.served_model import ServedModel


class Named:
    """As much of a served model as the table looks at."""

    absence = ""

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version = name, str(version)


def named(name: str, version: int) -> ServedModel:
    return cast(ServedModel, Named(name, version))


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.replace("m", [named("m", 10), named("m", 9)])
    registry.replace("a", [named("a", 1)])
    for version in (9, 10):
        registry.set_state("m", version, READY)
    registry.set_state("m", 11, UNAVAILABLE, "digest")
    registry.set_state("loading", 1, LOADING)
    return registry


def test_an_empty_version_is_the_newest_by_number(registry: Registry) -> None:
    assert registry.resolve("m", "").version == "10"
    assert registry.resolve("m", "9").version == "9"
    assert registry.versions("m") == [9, 10]
    assert [model.version for model in registry.answering("m")] == ["9", "10"]
    assert [(model.name, model.version) for model in registry.served()] == [("a", "1"), ("m", "9"), ("m", "10")]
    assert registry.names() == ["a", "loading", "m"]


@pytest.mark.parametrize(
    ("name", "version", "kind", "message"),
    [
        ("x", "", NotFound, "Request for unknown model: 'x' is not found"),
        ("x", "1", NotFound, "Request for unknown model: 'x' is not found"),
        ("m", "12", NotFound, "Request for unknown model: 'm' version 12 is not found"),
        ("m", "11", NotReady, "Request for unknown model: 'm' version 11 is not at ready state"),
        ("loading", "", NotReady, "Request for unknown model: 'loading' has no version at ready state"),
        ("m", "1.0", InvalidInput, "specified version string '1.0'; expected a whole number"),
        ("m", "-1", InvalidInput, "expected a whole number"),
        ("m", "٣", InvalidInput, "expected a whole number"),
        ("m", "latest", InvalidInput, "expected a whole number"),
        ("m", "9" * 19, NotFound, "is not found"),
        ("m", "9" * 10_000, InvalidInput, "expected a whole number"),
    ],
)
def test_what_does_not_answer_says_why(
    registry: Registry, name: str, version: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as refusal:
        registry.resolve(name, version)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_the_reasons_of_all_versions_are_told_when_none_answers(registry: Registry) -> None:
    registry.replace("m", [])
    with pytest.raises(NotReady, match=r"has no version at ready state \(version 11: digest\)"):
        registry.resolve("m", "")


def test_a_swap_tells_what_answered_before_and_keeps_what_stays(registry: Registry) -> None:
    nine, ten = registry.answering("m")
    eleven = named("m", 11)
    assert registry.replace("m", [nine, eleven]) == [ten]
    assert registry.resolve("m", "") is eleven
    assert registry.replace("m", []) == [nine, eleven]
    assert registry.versions("m") == []


def test_states_are_sorted_and_handed_out_as_a_copy(registry: Registry) -> None:
    registry.set_state("m", 2, UNAVAILABLE, "old")
    states = registry.states("m")
    assert list(states) == [2, 9, 10, 11]
    assert states[11] == VersionState(UNAVAILABLE, "digest")
    states.clear()
    assert registry.states("m")
    assert registry.states("nobody") == {}
