"""What a request for an ensemble says of its urgency and its sequence, and how its tensors look to the steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from enginehouse.errors import DeadlineExceeded, EngineFailed, InvalidInput
from service.request import InferResponse, SequencePosition
from tests.service.ensemble_bench import CHAIN, DECOUPLED, Bench, chain
from tests.service.fake_steps import Call, ensemble_config, numbers, step_config, step_text

LEVELS = "max_batch_size: 8 dynamic_batching { priority_levels: 3 default_priority_level: 2 }"


def waiting_ids(bench: Bench) -> list[str]:
    return [pending.request.id for pending in bench.model._line]


def test_the_entry_goes_by_the_levels_of_the_first_step_that_has_any() -> None:
    config = ensemble_config(CHAIN, scheduling="max_inflight_requests: 1")
    bench = Bench(config, step_config("a"), step_config("b", more=LEVELS))
    bench.ask("running")
    for key, priority in (("low", 3), ("none", 0), ("unknown", 9), ("urgent", 1), ("second", 2), ("urgent too", 1)):
        bench.ask(key, id=key, parameters={"priority": priority})
    assert waiting_ids(bench) == ["urgent", "urgent too", "none", "unknown", "second", "low"]
    bench.steps.call("a").answer(y=[1])
    bench.steps.call("b").answer(y=[1])
    bench.clock.run_ready()
    (call,) = bench.steps.open
    assert (call.request.id, call.request.priority) == ("urgent", 1)


def test_without_levels_a_priority_means_nothing() -> None:
    bench = chain(scheduling="max_inflight_requests: 1")
    for key, priority in (("running", 0), ("first", 3), ("second", 1)):
        bench.ask(key, id=key, parameters={"priority": priority})
    assert waiting_ids(bench) == ["first", "second"]


def test_an_objective_of_the_ensemble_is_the_deadline_of_all_its_steps() -> None:
    bench = chain('parameters { key: "slo_ms" value { string_value: "2000" } }')
    bench.ask(received_at=bench.clock.now())
    assert bench.steps.call("a").request.deadline == bench.clock.now() + 2
    bench.clock.advance(2.5)
    bench.steps.call("a").answer(y=[1])
    assert isinstance(bench.error(), DeadlineExceeded)


def test_an_objective_that_is_no_time_is_refused() -> None:
    with pytest.raises(InvalidInput, match="slo_ms is 'soon'"):
        chain('parameters { key: "slo_ms" value { string_value: "soon" } }')


def reshaped(inner_dims: str, more: str = "") -> Bench:
    config = ensemble_config(CHAIN, dims="-1, 4", more=more)
    config.input[0].reshape.shape.extend((-1, 2, 2))
    config.output[0].reshape.shape.extend((-1, 4, 1))
    return Bench(config, step_config("a", dims=inner_dims, more=more), step_config("b", dims="-1, -1, -1", more=more))


@pytest.mark.parametrize(("more", "batch"), [("", ()), ("max_batch_size: 8", (3,))])
def test_its_own_tensors_are_reshaped_between_clients_and_steps(more: str, batch: tuple[int, ...]) -> None:
    bench = reshaped("-1, 2, 2", more)
    values = range((batch or (1,))[0] * 8)
    bench.ask(inputs=[numbers("in", values, (*batch, 2, 4))])
    call = bench.steps.call("a")
    assert call.request.inputs[0].shape == (*batch, 2, 2, 2)
    for name, shape in (("a", (*batch, 2, 2, 2)), ("b", (*batch, 2, 4, 1))):
        call = bench.steps.call(name)
        call.finish(InferResponse(name, "1", "", (numbers("y", values, shape),), call.response().timings))
    (answer,) = bench.answers["one"]
    assert isinstance(answer, InferResponse)
    assert answer.outputs == (numbers("out", values, (*batch, 2, 4)),)
    assert bench.is_empty()


def test_a_step_whose_output_cannot_be_reshaped_fails_the_request() -> None:
    bench = reshaped("-1, 2, 2")
    bench.ask(inputs=[numbers("in", range(4), (1, 4))])
    bench.steps.call("a").answer(y=[1])
    call = bench.steps.call("b")
    call.finish(InferResponse("b", "1", "", (numbers("y", [1, 2, 3], (1, 3, 1)),), call.response().timings))
    assert isinstance(bench.error(), EngineFailed)
    assert str(bench.error()) == "in ensemble 'e', 'out' has shape [1, 3, 1]; [-1, 4, 1] expected."
    assert bench.is_empty()


def test_a_reshaped_tensor_must_agree_with_the_step_as_it_is_then() -> None:
    with pytest.raises(InvalidInput, match=r"ensemble tensor 'in': inconsistent shape: \[-1, 2, 2\] .* \[-1, 4\]"):
        reshaped("-1, 4")


def said(call: Call, values: Sequence[int], **parameters: Any) -> InferResponse:
    """What a step answers that says something besides."""
    return replace(call.response(y=values), parameters=parameters)


LONG_CHAIN = [CHAIN[0], step_text("b", {"x": "p"}, {"y": "q"}), step_text("c", {"x": "q"}, {"y": "out"})]


def test_a_step_may_name_the_sequence_of_all_that_is_made_of_its_outputs() -> None:
    bench = Bench(ensemble_config(LONG_CHAIN), *map(step_config, "abc"))
    bench.ask(parameters={"sequence_id": 5, "sequence_start": True})
    first = bench.steps.call("a")
    assert first.request.sequence == SequencePosition(5, is_start=True)
    first.finish(said(first, [1], sequence_id="own", sequence_end=True, other=1))
    second = bench.steps.call("b")
    assert second.request.sequence == SequencePosition("own", is_end=True)
    second.answer(y=[2])
    third = bench.steps.call("c")
    assert third.request.sequence == SequencePosition("own", is_end=True)
    third.finish(said(third, [3], sequence_start=True))
    (answer,) = bench.answers["one"]
    assert isinstance(answer, InferResponse)
    assert answer.parameters == {"sequence_id": "own", "sequence_start": True, "sequence_end": False}


def test_an_ensemble_whose_steps_say_nothing_of_a_sequence_says_nothing() -> None:
    bench = chain()
    bench.ask(parameters={"sequence_id": 5, "sequence_start": True})
    first = bench.steps.call("a")
    first.finish(said(first, [1], other=1))
    assert bench.steps.call("b").request.sequence == SequencePosition(5, is_start=True)
    bench.steps.call("b").answer(y=[1])
    (answer,) = bench.answers["one"]
    assert isinstance(answer, InferResponse)
    assert answer.parameters == {}


def test_each_answer_of_a_decoupled_step_may_name_another_sequence() -> None:
    bench = Bench(ensemble_config(CHAIN), step_config("a", more=DECOUPLED), step_config("b"))
    bench.stream()
    source = bench.steps.call("a")
    emit = source.request.emit
    assert emit is not None
    for number in (1, 2):
        emit(said(source, [number], sequence_id=number))
    assert [call.request.sequence for call in bench.steps.open if call is not source] == [
        SequencePosition(1),
        SequencePosition(2),
    ]


def test_a_step_that_names_no_possible_sequence_fails_the_request() -> None:
    bench = chain()
    bench.ask()
    first = bench.steps.call("a")
    first.finish(said(first, [1], sequence_start="yes"))
    assert isinstance(bench.error(), EngineFailed)
    assert "the response of step 'a' is wrong: parameter 'sequence_start' is 'yes'" in str(bench.error())
    assert bench.is_empty()
