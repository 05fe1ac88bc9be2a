"""Random ensembles under random answers, failures, cancels and deadlines."""

from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed, Error, NotReady, Overloaded
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import FakeClock
from service.ensembles.ensemble import EnsembleModel
from service.loaded import LoadedVersion
from service.request import InferRequest, InferResponse
from service.statistics.statistics import ModelStatistics
from tests.service.fake_steps import Call, FakeSteps, ensemble_config, numbers, step_config, step_text


@dataclass
class Graph:
    """A random ensemble: what each step reads, and that it gives the sum of it plus its own number."""

    inputs: list[str]
    outputs: list[str]
    reads: dict[str, list[str]]
    limit: int

    def config(self, order: list[str]) -> ModelConfig:
        texts = {
            name: step_text(name, {f"x{at}": tensor for at, tensor in enumerate(tensors)}, {"y": f"t_{name}"})
            for name, tensors in self.reads.items()
        }
        scheduling = f"max_inflight_requests: {self.limit}"
        return ensemble_config([texts[name] for name in order], self.inputs, self.outputs, scheduling=scheduling)

    def models(self) -> list[ModelConfig]:
        return [step_config(name, [f"x{at}" for at, _ in enumerate(tensors)]) for name, tensors in self.reads.items()]

    def value(self, tensor: str, given: int) -> int:
        """What a tensor must be, worked out from the back."""
        if tensor in self.inputs:
            return given
        name = tensor.removeprefix("t_")
        return (sum(self.value(read, given) for read in self.reads[name]) + int(name[1:])) % 256


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    inputs = [f"in{number}" for number in range(draw(st.integers(1, 2)))]
    tensors = list(inputs)
    reads: dict[str, list[str]] = {}
    for number in range(draw(st.integers(1, 6))):
        reads[f"m{number}"] = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3, unique=True))
        tensors.append(f"t_m{number}")
    read = {tensor for names in reads.values() for tensor in names}
    reads["m0"] += [tensor for tensor in inputs if tensor not in read]
    made = [tensor for tensor in tensors if tensor not in inputs]
    extra = draw(st.lists(st.sampled_from(made), unique=True))
    outputs = [tensor for tensor in made if tensor not in read or tensor in extra]
    return Graph(inputs, outputs, reads, draw(st.integers(0, 2)))


def computed(call: Call) -> int:
    values = [tensor.data[0] for tensor in call.request.inputs]
    return (sum(values) + int(call.request.model_name[1:])) % 256


@settings(max_examples=300)
@given(graphs(), st.data())
def test_every_request_is_answered_once_and_nothing_stays_in_flight(graph: Graph, data: st.DataObject) -> None:
    steps = FakeSteps().add(*graph.models())
    clock = FakeClock()
    config = graph.config(data.draw(st.permutations(list(graph.reads))))
    loaded = LoadedVersion(config, 1, Path(), (), 0.0)
    model = EnsembleModel(loaded, clock, steps.infer, steps.resolve, ModelStatistics())
    told: list[list[InferResponse | Error]] = []
    asked: list[tuple[str, ...]] = []
    visits = []
    drained: list[bool] = []
    events = st.sampled_from(("ask", "ask", "answer", "answer", "answer", "answer", "fail", "leave", "wait", "refuse"))
    for event in data.draw(st.lists(events, max_size=40)):
        call = data.draw(st.sampled_from(steps.open)) if steps.open else None
        if event == "ask" and len(told) < 100:
            outputs = tuple(data.draw(st.lists(st.sampled_from(graph.outputs), unique=True)))
            deadline = clock.now() + data.draw(st.integers(1, 4)) if data.draw(st.booleans()) else None
            inputs = tuple(numbers(name, [len(told)]) for name in graph.inputs)
            told.append([])
            asked.append(outputs or tuple(graph.outputs))
            request = InferRequest("e", "", inputs, outputs, deadline=deadline)
            visits.append(model.infer(request, told[-1].append))
        elif event == "answer" and call is not None:
            call.answer(y=[computed(call)])
        elif event == "fail" and call is not None:
            call.finish(EngineFailed("broken"))
        elif event == "leave" and visits:
            visit = data.draw(st.sampled_from(visits))
            for open_call in steps.open:
                open_call.can_cancel = data.draw(st.booleans())
            if visit is not None:
                visit.cancel()
        elif event == "wait":
            clock.advance(1)
        elif event == "refuse":
            name = data.draw(st.sampled_from(list(graph.reads)))
            steps.refusals = {} if steps.refusals else {name: Overloaded("full")}
        clock.run_ready()
        if graph.limit:
            assert len(model._running) <= graph.limit
    steps.refusals = {}
    model.drain(lambda: drained.append(True))
    if data.draw(st.booleans()):
        model.abandon()
    while steps.open:
        call = steps.open[0]
        call.answer(y=[computed(call)])
        clock.run_ready()
    clock.run_ready()
    assert drained == [True]
    assert not model._running
    assert model.queue_depth == 0
    kinds = (Cancelled, DeadlineExceeded, EngineFailed, NotReady, Overloaded)
    for number, (answers, outputs) in enumerate(zip(told, asked, strict=True)):
        (answer,) = answers
        if isinstance(answer, InferResponse):
            values = {tensor.name: tensor.data[0] for tensor in answer.outputs}
            assert values == {name: graph.value(name, number) for name in outputs}
        else:
            assert isinstance(answer, kinds), answer
    counted = model.statistics
    assert counted.success.count + counted.fail.count == len(told)


@settings(max_examples=200)
@given(
    st.integers(0, 2), st.lists(st.sampled_from(("emit", "last", "answer", "fail", "leave")), max_size=30), st.data()
)
def test_a_decoupled_ensemble_ends_once_and_its_answers_keep_their_order(
    limit: int, events: list[str], data: st.DataObject
) -> None:
    texts = [step_text("a", {"x": "in"}, {"y": "p"}), step_text("b", {"x": "p"}, {"y": "out"})]
    config = ensemble_config(texts, scheduling=f"max_inflight_requests: {limit}")
    decoupled = step_config("a", more="model_transaction_policy { decoupled: true }")
    steps = FakeSteps().add(decoupled, step_config("b"))
    clock = FakeClock()
    loaded = LoadedVersion(config, 1, Path(), (), 0.0)
    model = EnsembleModel(loaded, clock, steps.infer, steps.resolve, ModelStatistics())
    heard: list[int] = []
    ends: list[InferResponse | Error] = []
    request = InferRequest("e", "", (numbers("in", [1]),), emit=lambda answer: heard.append(answer.outputs[0].data[0]))
    visit = model.infer(request, ends.append)
    assert visit is not None
    (first,) = steps.open
    first.can_cancel = data.draw(st.booleans())
    given_numbers = 0
    for event in [*events, "last", *["answer"] * 40]:
        waiting = [call for call in steps.open if call is not first]
        is_open = first in steps.open
        if event == "emit" and is_open:
            first.emit(y=[given_numbers])
            given_numbers += 1
        elif event == "last" and is_open:
            first.answer()
        elif event == "answer" and waiting:
            call = data.draw(st.sampled_from(waiting))
            call.answer(y=call.value("x"))
        elif event == "fail" and waiting:
            data.draw(st.sampled_from(waiting)).finish(EngineFailed("broken"))
        elif event == "leave" and data.draw(st.integers(0, 5)) == 0:
            visit.cancel()
        assert heard == list(range(len(heard)))
        if limit:
            assert len([call for call in steps.open if call is not first]) <= limit
    clock.run_ready()
    (end,) = ends
    assert not model._running
    if isinstance(end, InferResponse):
        assert end.outputs == ()
        assert len(heard) == given_numbers
    else:
        assert isinstance(end, Cancelled | EngineFailed)
