"""Models that answer when a test says so, for the ensembles over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from enginehouse.dtype import DTYPES
from enginehouse.errors import Cancelled, Error, NotFound
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.request import InferRequest, InferResponse, Settle, Timings, WireTensor

TIMINGS = Timings(0.0, 1.0, 2.0, 3.0, 4.0, 1)


def numbers(name: str, values: Sequence[int], shape: Sequence[int] | None = None) -> WireTensor:
    """A tensor of bytes, which are their own numbers."""
    return WireTensor(name, DTYPES["UINT8"], tuple(shape or (len(values),)), bytes(values))


def step_config(
    name: str,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    more: str = "",
    dims: str = "-1",
    dtype: str = "TYPE_UINT8",
) -> ModelConfig:
    """A model whose tensors all look alike."""
    tensors = [("input", tensor) for tensor in inputs] + [("output", tensor) for tensor in outputs]
    lines = [f'{kind} {{ name: "{tensor}" data_type: {dtype} dims: [ {dims} ] }}' for kind, tensor in tensors]
    return config_from_text("\n".join([*lines, more]), name)


def step_text(model: str, inputs: dict[str, str], outputs: dict[str, str], version: int = -1) -> str:
    """One step of an ensemble in the text format."""
    maps = [
        f'{kind} {{ key: "{key}" value: "{value}" }}'
        for kind, pairs in (("input_map", inputs), ("output_map", outputs))
        for key, value in pairs.items()
    ]
    return f'step {{ model_name: "{model}" model_version: {version} {" ".join(maps)} }}'


def ensemble_config(
    steps: Sequence[str],
    inputs: Sequence[str] = ("in",),
    outputs: Sequence[str] = ("out",),
    more: str = "",
    dims: str = "-1",
    scheduling: str = "",
) -> ModelConfig:
    text = f'platform: "ensemble" ensemble_scheduling {{ {" ".join(steps)} {scheduling} }} {more}'
    return step_config("e", inputs, outputs, text, dims)


@dataclass(frozen=True)
class Description:
    """What an ensemble sees of a model."""

    config: ModelConfig
    labels: Mapping[str, Sequence[str]]
    absence: str = ""


@dataclass(eq=False)
class Call:
    """One request that a step was asked; the test answers it."""

    request: InferRequest
    settle: Settle
    steps: "FakeSteps"
    can_cancel: bool = True
    answers: int = 0

    def answer(self, **outputs: Sequence[int]) -> None:
        """Answer with one-dimensional tensors."""
        self.finish(self.response(**outputs))

    def response(self, **outputs: Sequence[int]) -> InferResponse:
        tensors = tuple(numbers(name, values) for name, values in outputs.items())
        return InferResponse(self.request.model_name, "1", self.request.id, tensors, TIMINGS)

    def emit(self, **outputs: Sequence[int]) -> None:
        assert self.request.emit is not None
        self.request.emit(self.response(**outputs))

    def finish(self, answer: InferResponse | Error) -> None:
        self.answers += 1
        self.steps.open.remove(self)
        self.settle(answer)

    def cancel(self) -> None:
        """One that waits leaves at once; one that runs does not."""
        self.steps.cancelled.append(self)
        if self.can_cancel and not self.answers:
            self.finish(Cancelled("the caller left"))

    def value(self, name: str) -> list[int]:
        (tensor,) = [tensor for tensor in self.request.inputs if tensor.name == name]
        return list(tensor.data)


@dataclass
class FakeSteps:
    """Stands where a server's models are."""

    configs: dict[str, ModelConfig] = field(default_factory=dict)
    labels: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    open: list[Call] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    cancelled: list[Call] = field(default_factory=list)
    refusals: dict[str, Error] = field(default_factory=dict)
    at_once: set[str] = field(default_factory=set)

    def add(self, *configs: ModelConfig) -> "FakeSteps":
        self.configs.update({config.name: config for config in configs})
        return self

    def config_of(self, name: str, version: str) -> ModelConfig:
        if name not in self.configs or version not in ("", "1"):
            raise NotFound(f"'{name}' version '{version}' is not found")
        return self.configs[name]

    def resolve(self, name: str, version: str) -> "Description":
        return Description(self.config_of(name, version), self.labels.get(name, {}))

    def infer(self, request: InferRequest, settle: Settle) -> Call | None:
        """Keep the request for the test; a refusal is told before this returns."""
        self.asked.append(request.model_name)
        if request.model_name in self.refusals:
            settle(self.refusals[request.model_name])
            return None
        call = Call(request, settle, self)
        self.open.append(call)
        if request.model_name in self.at_once:
            call.answer(y=call.value("x"))
        return call

    def call(self, name: str) -> Call:
        """The first request that a step has not answered."""
        return next(call for call in self.open if call.request.model_name == name)

    def names(self) -> list[str]:
        """The steps that are at work."""
        return sorted(call.request.model_name for call in self.open)
