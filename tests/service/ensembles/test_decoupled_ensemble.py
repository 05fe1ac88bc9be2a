"""Ensembles over a step that answers any number of times."""

import pytest

from enginehouse.errors import EngineFailed, InvalidInput, NotSupported, Overloaded
from service.request import InferResponse
from tests.service.ensemble_bench import CHAIN, DECOUPLED, Bench
from tests.service.fake_steps import ensemble_config, step_config


def decoupled(scheduling: str = "") -> Bench:
    return Bench(ensemble_config(CHAIN, scheduling=scheduling), step_config("a", more=DECOUPLED), step_config("b"))


def test_an_ensemble_with_a_decoupled_step_is_decoupled_and_answers_in_order() -> None:
    bench = decoupled()
    assert bench.model.config.model_transaction_policy.decoupled
    bench.stream()
    first = bench.steps.call("a")
    for number in (1, 2):
        first.emit(y=[number])
    one, two = (call for call in bench.steps.open if call.request.model_name == "b")
    two.answer(y=two.value("x"))
    assert bench.emitted == []
    first.answer(y=[3])
    one.answer(y=one.value("x"))
    assert bench.emitted == [[1], [2]]
    assert bench.answers["one"] == []
    bench.steps.call("b").answer(y=[3])
    assert bench.emitted == [[1], [2], [3]]
    assert bench.outputs() == {}
    assert bench.is_empty()


def test_a_decoupled_step_may_give_nothing() -> None:
    bench = decoupled()
    bench.stream()
    bench.steps.call("a").answer()
    assert bench.emitted == []
    assert bench.outputs() == {}
    assert bench.is_empty()


def test_answers_of_a_decoupled_step_wait_where_the_next_one_is_at_its_limit() -> None:
    bench = decoupled("max_inflight_requests: 2")
    bench.stream()
    first = bench.steps.call("a")
    for number in range(5):
        first.emit(y=[number])
    first.answer()
    for _ in range(5):
        assert bench.steps.names() == ["b"] * min(2, 5 - len(bench.emitted))
        call = bench.steps.call("b")
        call.answer(y=call.value("x"))
    assert bench.emitted == [[0], [1], [2], [3], [4]]
    assert bench.is_empty()


def test_a_failure_behind_a_decoupled_step_ends_the_whole() -> None:
    bench = decoupled("max_inflight_requests: 1")
    bench.stream()
    first = bench.steps.call("a")
    first.can_cancel = False
    for number in range(3):
        first.emit(y=[number])
    bench.steps.call("b").finish(EngineFailed("broken."))
    assert isinstance(bench.error(), EngineFailed)
    first.emit(y=[9])
    first.answer()
    assert bench.steps.asked == ["a", "b"]
    assert bench.is_empty()


def test_a_flood_of_answers_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.ensembles.ensemble_run.MAX_WAITING_ANSWERS", 2)
    bench = decoupled("max_inflight_requests: 1")
    bench.stream()
    first = bench.steps.call("a")
    for number in range(4):
        first.emit(y=[number])
    assert isinstance(bench.error(), Overloaded)
    assert bench.is_empty()


def test_a_decoupled_ensemble_needs_a_stream() -> None:
    bench = decoupled()
    bench.ask()
    assert isinstance(bench.error(), NotSupported)


def test_a_decoupled_ensemble_cannot_be_cached() -> None:
    config = ensemble_config(CHAIN, more="response_cache { enable: true }")
    with pytest.raises(InvalidInput, match="response_cache cannot be enabled for a decoupled model"):
        Bench(config, step_config("a", more=DECOUPLED), step_config("b"))


def test_a_caller_that_cannot_take_its_answer_hurts_nobody() -> None:
    bench = decoupled()

    def break_down(_: InferResponse) -> None:
        raise ConnectionError("gone")

    bench.ask(emit=break_down)
    bench.steps.call("a").emit(y=[1])
    bench.steps.call("b").answer(y=[1])
    bench.steps.call("a").answer()
    assert bench.outputs() == {}
    assert bench.is_empty()
