import gc
import weakref

import numpy as np

from enginehouse.dtype import DTYPES
from enginehouse.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    InvalidInput,
    MissingExtra,
    NotReady,
    Overloaded,
)
from service.ensembles.ensemble import MAX_REQUESTS
from service.request import InferRequest, InferResponse, SequencePosition, Settle, WireTensor
from tests.service.ensemble_bench import CHAIN, Bench, chain, diamond
from tests.service.fake_steps import Call, ensemble_config, numbers, step_config, step_text


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


def test_a_request_that_is_through_lets_go_of_its_run_and_the_tensors_of_it() -> None:
    bench = chain()
    visit = bench.ask()
    for step in "ab":
        assert visit.run is not None  # type: ignore[union-attr]
        bench.steps.call(step).answer(y=[1])
    assert bench.outputs() == {"out": [1]}
    assert visit.run is None  # type: ignore[union-attr]
    assert visit is not None
    visit.cancel()
    assert bench.is_empty()
