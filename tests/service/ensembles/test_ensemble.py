import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    Error,
    InvalidInput,
    MissingExtra,
    NotReady,
    NotSupported,
    Overloaded,
)
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import FakeClock
from service.ensembles.ensemble import MAX_REQUESTS, EnsembleModel
from service.loaded import LoadedVersion
from service.request import Admitted, InferRequest, InferResponse, SequencePosition, Settle, WireTensor
from service.statistics.statistics import ModelStatistics
from tests.service.fake_steps import Call, FakeSteps, ensemble_config, numbers, step_config, step_text

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


def test_a_step_runs_as_soon_as_its_inputs_are_there_and_several_run_at_once() -> None:
    bench = diamond()
    bench.ask()
    assert bench.steps.names() == ["a"]
    bench.steps.call("a").answer(y=[5])
    assert bench.steps.names() == ["b", "c"]
    bench.steps.call("c").answer(y=[7])
    assert bench.steps.names() == ["b"]
    bench.steps.call("b").answer(y=[6])
    last = bench.steps.call("d")
    assert (last.value("x"), last.value("z")) == ([6], [7])
    assert bench.answers["one"] == []
    last.answer(y=[9])
    assert bench.outputs() == {"out": [9]}
    assert bench.is_empty()


def test_an_output_that_is_also_an_input_of_a_later_step_is_answered_once() -> None:
    steps = [step_text("a", {"x": "in"}, {"y": "out"}), step_text("b", {"x": "out"}, {"y": "more"})]
    bench = Bench(ensemble_config(steps, outputs=("out", "more")), *map(step_config, "ab"))
    bench.ask()
    bench.steps.call("a").answer(y=[2])
    bench.steps.call("b").answer(y=[3])
    assert bench.outputs() == {"out": [2], "more": [3]}


def test_only_the_wanted_outputs_are_computed() -> None:
    steps = [step_text("a", {"x": "in"}, {"y": "left", "z": "p"}), step_text("b", {"x": "p"}, {"y": "right"})]
    config = ensemble_config(steps, outputs=("left", "right"))
    bench = Bench(config, step_config("a", outputs=("y", "z")), step_config("b"))
    bench.ask(outputs=("left",))
    call = bench.steps.call("a")
    assert call.request.outputs == ("y",)
    call.answer(y=[4])
    assert bench.outputs() == {"left": [4]}
    assert bench.steps.asked == ["a"]


def test_what_the_caller_said_goes_with_every_step() -> None:
    bench = chain()
    parameters = {"own": "word", "priority": 2, "timeout": 9_000_000, "sequence_id": 7, "sequence_start": True}
    bench.ask(id="r1", parameters=parameters, deadline=100.0)
    bench.steps.call("a").answer(y=[5])
    request = bench.steps.call("b").request
    assert (request.id, request.parameters, request.priority) == ("r1", {"own": "word"}, 2)
    assert request.sequence == SequencePosition(7, is_start=True)
    assert request.deadline == 9.0


def test_a_step_that_fails_ends_the_others_and_the_error_names_the_ensemble() -> None:
    bench = diamond()
    bench.ask()
    bench.steps.call("a").answer(y=[5])
    failed, waiting = bench.steps.call("b"), bench.steps.call("c")
    failed.finish(EngineFailed("the engine of 'b' burned out."))
    assert isinstance(bench.error(), EngineFailed)
    assert str(bench.error()) == "in ensemble 'e', the engine of 'b' burned out."
    assert bench.steps.cancelled == [waiting]
    assert bench.is_empty()
    assert bench.model.statistics.failures["BACKEND"] == 1


def test_an_error_that_does_not_name_its_step_is_told_with_the_name_and_stays_what_it_is() -> None:
    bench = diamond()
    bench.ask()
    bench.steps.call("a").answer(y=[5])
    problem = MissingExtra("openvino", "openvino", "running it")
    bench.steps.call("c").finish(problem)
    assert type(bench.error()) is MissingExtra
    assert str(bench.error()) == f"in ensemble 'e', {problem} (step 'c')"


def test_a_caller_that_leaves_is_told_at_once_and_its_place_is_free_when_the_engine_is() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    first = bench.ask("first")
    bench.ask("second")
    running = bench.steps.call("a")
    running.can_cancel = False
    assert first is not None
    first.cancel()
    assert isinstance(bench.error("first"), Cancelled)
    bench.clock.run_ready()
    assert bench.steps.asked == ["a"]
    running.answer(y=[1])
    bench.clock.run_ready()
    assert bench.steps.asked == ["a", "a"]
    first.cancel()
    bench.steps.call("a").answer(y=[2])
    bench.steps.call("b").answer(y=[3])
    assert bench.outputs("second") == {"out": [3]}
    assert bench.is_empty()


def test_requests_wait_at_the_entry_in_their_order_and_leave_it_at_their_deadline() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    bench.ask("first")
    bench.ask("late", deadline=1.0)
    gone = bench.ask("gone")
    bench.ask("last")
    assert bench.model.queue_depth == 3
    bench.clock.advance(1.5)
    assert isinstance(bench.error("late"), DeadlineExceeded)
    assert gone is not None
    gone.cancel()
    assert isinstance(bench.error("gone"), Cancelled)
    bench.steps.call("a").answer(y=[1])
    bench.steps.call("b").answer(y=[1])
    assert bench.steps.asked == ["a", "b"]
    bench.clock.run_ready()
    assert bench.steps.asked == ["a", "b", "a"]
    assert bench.model.queue_depth == 0
    bench.steps.call("a").answer(y=[1])
    bench.steps.call("b").answer(y=[8])
    assert bench.outputs("last") == {"out": [8]}
    assert bench.is_empty()


def test_nobody_who_comes_later_takes_the_place_of_one_who_waits() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    bench.ask("first")
    bench.ask("second", id="second")
    bench.steps.call("a").answer(y=[1])
    bench.steps.call("b").answer(y=[1])
    bench.ask("third", id="third")
    bench.clock.run_ready()
    assert [call.request.id for call in bench.steps.open] == ["second"]


def test_a_request_that_waited_leaves_no_timer_behind() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    bench.ask("first")
    gone = bench.ask("gone", deadline=1000.0)
    bench.ask("served", deadline=1000.0)
    visits = [weakref.ref(visit) for visit in bench.model._line]
    assert gone is not None
    gone.cancel()
    del gone
    for _ in range(2):
        bench.steps.call("a").answer(y=[1])
        bench.steps.call("b").answer(y=[1])
        bench.clock.run_ready()
    assert bench.outputs("served") == {"out": [1]}
    gc.collect()
    assert [visit() for visit in visits] == [None, None]


def test_a_caller_that_leaves_while_a_step_is_asked_takes_it_along() -> None:
    bench = diamond()
    visit = bench.ask()
    infer = bench.steps.infer

    def infer_and_leave(request: InferRequest, settle: Settle) -> Call | None:
        call = infer(request, settle)
        if request.model_name == "b":
            assert visit is not None
            visit.cancel()
        return call

    assert visit is not None
    visit.run._infer = infer_and_leave  # type: ignore[attr-defined]
    bench.steps.call("a").answer(y=[5])
    assert isinstance(bench.error(), Cancelled)
    assert bench.steps.asked == ["a", "b"]
    assert bench.is_empty()


def test_a_request_is_refused_at_the_entry_while_a_step_does_not_answer() -> None:
    bench = chain()
    del bench.steps.configs["b"]
    assert bench.ask() is None
    assert isinstance(bench.error(), NotReady)
    assert bench.steps.asked == []
    bench.steps.add(step_config("b"))
    bench.ask("two")
    assert bench.steps.names() == ["a"]


def test_the_entry_is_bounded() -> None:
    bench = chain()
    for number in range(MAX_REQUESTS):
        bench.ask(str(number))
    assert bench.ask("more") is None
    assert isinstance(bench.error("more"), Overloaded)
    assert len(bench.steps.open) == MAX_REQUESTS


def test_no_step_starts_for_a_request_whose_deadline_has_passed() -> None:
    bench = chain()
    bench.ask(deadline=1.0)
    bench.clock.advance(2.0)
    bench.steps.call("a").answer(y=[1])
    assert isinstance(bench.error(), DeadlineExceeded)
    assert bench.steps.asked == ["a"]
    assert bench.is_empty()


def test_an_intermediate_tensor_is_let_go_of_when_its_last_reader_has_it() -> None:
    bench = chain()
    bench.ask()
    array = np.array([5], np.uint8)
    watched = weakref.ref(array)
    tensor = WireTensor("y", DTYPES["UINT8"], (1,), array.data)
    call = bench.steps.call("a")
    call.finish(InferResponse("a", "1", "", (tensor,), call.response().timings))
    del array, tensor
    bench.steps.call("b").request.inputs = ()
    gc.collect()
    assert watched() is None
    bench.steps.call("b").answer(y=[1])
    assert bench.outputs() == {"out": [1]}


def test_a_chain_of_steps_that_answer_at_once_does_not_grow_the_stack() -> None:
    length = 400
    names = [f"m{number}" for number in range(length)]
    tensors = ["in", *(f"t{number}" for number in range(length - 1)), "out"]
    texts = [step_text(name, {"x": tensors[at]}, {"y": tensors[at + 1]}) for at, name in enumerate(names)]
    bench = Bench(ensemble_config(texts), *map(step_config, names))
    bench.steps.at_once = set(names)
    bench.ask()
    assert bench.outputs() == {"out": [1]}
    assert bench.is_empty()


def test_statistics_count_one_execution_with_what_the_steps_took_and_its_own_wait() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    for key in ("first", "second"):
        bench.ask(key)
        bench.clock.advance(2.0)
    for _ in range(2):
        bench.steps.call("a").answer(y=[1])
        bench.steps.call("b").answer(y=[1])
        bench.clock.run_ready()
    counted = bench.model.statistics
    assert (counted.inference_count, counted.execution_count, counted.success.count) == (2, 2, 2)
    assert counted.queue.seconds == 2.0
    assert counted.success.seconds == 6.0
    assert (counted.compute_input.seconds, counted.compute_infer.seconds) == (8.0, 12.0)
    (answer,) = bench.answers["second"]
    assert isinstance(answer, InferResponse)
    assert answer.timings.queue == 4.0


def test_a_row_travels_between_models_that_batch_and_models_that_do_not() -> None:
    config = ensemble_config(CHAIN, more="max_batch_size: 4", dims="3")
    bench = Bench(config, step_config("a", dims="3"), step_config("b", dims="3", more="max_batch_size: 4"))
    bench.ask(inputs=[numbers("in", [1, 2, 3], (1, 3))])
    (given,) = bench.steps.call("a").request.inputs
    assert given.shape == (3,)
    bench.steps.call("a").answer(y=[4, 5, 6])
    (given,) = bench.steps.call("b").request.inputs
    assert given.shape == (1, 3)


def test_an_output_that_a_step_did_not_give_is_an_input_that_is_not_given() -> None:
    bench = chain()
    bench.ask()
    bench.steps.call("a").answer()
    assert bench.steps.call("b").request.inputs == ()


def test_a_request_that_does_not_fit_is_refused_before_any_step() -> None:
    bench = chain()
    assert bench.ask(inputs=[numbers("other", [1])]) is None
    assert isinstance(bench.error(), InvalidInput)
    assert bench.steps.asked == []
    assert bench.model.statistics.failures["OTHER"] == 1


def test_a_drained_ensemble_finishes_what_it_has_and_takes_nothing_new() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    bench.ask("first")
    bench.ask("second")
    drained: list[bool] = []
    bench.model.drain(lambda: drained.append(True))
    bench.ask("third")
    assert isinstance(bench.error("third"), NotReady)
    for _ in range(2):
        assert not drained
        bench.steps.call("a").answer(y=[1])
        bench.steps.call("b").answer(y=[1])
        bench.clock.run_ready()
    assert drained == [True]
    assert bench.outputs("second") == {"out": [1]}


def test_abandoned_requests_are_told() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    bench.ask("first")
    bench.ask("second")
    bench.model.abandon()
    assert isinstance(bench.error("first"), NotReady)
    assert isinstance(bench.error("second"), NotReady)
    assert bench.is_empty()


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
