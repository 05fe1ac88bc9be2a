"""What an ensemble does with a request: which step needs which tensors, worked out and checked once, at load.

The rules are Triton's (its `ensemble_scheduling` and the validation of it): tensors of the ensemble tie outputs of
models to inputs of others, every tensor is written once and used, and types and shapes agree on both ends.

A decoupled model answers any number of times, and what follows it runs once for each answer. A *scope* is all that
runs equally often: scope 0 once for each request, scope k once for each answer of the k-th decoupled step.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from enginehouse.errors import Error, InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelEnsembling
from service.ensembles.ensemble_rules import check_ensemble
from service.ensembles.ensemble_tensors import (
    EnsembleTensor,
    Feed,
    Reshape,
    TensorsByName,
    agree,
    inner_tensors_of,
    reshapes_of,
    tensors_of,
)
from service.request import InferResponse

ConfigOf = Callable[[str, str], ModelConfig]
"""The complete configuration of a model that answers, by name and version; empty for the newest."""


@dataclass(slots=True, frozen=True)
class PlannedStep:
    """One model that is asked.

    Attributes:
        model_version: empty for the newest that answers at the time of a request.
        inputs: what it is given.
        tensors: of the ensemble that it is given, each once.
        outputs: by name of its output, the tensor of the ensemble that it becomes.
        scope: how often it runs.
        opens: the scope of its outputs; another one than its own if it is decoupled.
    """

    model_name: str
    model_version: str
    inputs: tuple[Feed, ...]
    tensors: tuple[str, ...]
    outputs: Mapping[str, str]
    scope: int
    opens: int

    @property
    def is_decoupled(self) -> bool:
        """Whether it may answer any number of times, so that what follows runs once for each answer."""
        return self.opens != self.scope

    def tensors_from(self, response: InferResponse) -> TensorsByName:
        """What its response gives to the ensemble; None for an output that it left out."""
        given = {tensor.name: tensor for tensor in response.outputs}
        return {tensor: given.get(name) for name, tensor in self.outputs.items()}


@dataclass(slots=True, frozen=True)
class Route:
    """What it takes to make some of the outputs.

    Attributes:
        results: the wanted outputs, in order.
        result_tensors: what they are made from.
        asked: by position of a step, which of its outputs are needed.
        takers: by tensor, the steps that are given it.
        uses: by tensor, how often it is looked at before nobody needs it any more.
    """

    results: tuple[Feed, ...]
    result_tensors: frozenset[str]
    asked: Mapping[int, tuple[str, ...]]
    takers: Mapping[str, tuple[int, ...]]
    uses: Mapping[str, int]


@dataclass(slots=True, frozen=True)
class EnsemblePlan:
    """A checked ensemble.

    Attributes:
        results: the outputs, in the order of the configuration.
        result_scope: how often the ensemble answers.
        reshapes: of the inputs that the steps see under another shape than clients, by name.
    """

    steps: tuple[PlannedStep, ...]
    results: tuple[Feed, ...]
    result_scope: int
    reshapes: Mapping[str, Reshape]

    @property
    def is_decoupled(self) -> bool:
        """Whether the ensemble may answer any number of times: a step of it is decoupled."""
        return any(step.is_decoupled for step in self.steps)

    def route(self, outputs: Collection[str]) -> Route:
        """The steps that some outputs need, all of them if none is named; the others never run."""
        results = [result for result in self.results if not outputs or result.name in outputs]
        results.sort(key=lambda result: list(outputs).index(result.name) if outputs else 0)
        wanted = {result.tensor for result in results}
        makers = {tensor: position for position, step in enumerate(self.steps) for tensor in step.outputs.values()}
        needed: set[int] = set()
        open_tensors = set(wanted)
        while open_tensors:
            position = makers.get(open_tensors.pop())
            if position is not None and position not in needed:
                needed.add(position)
                open_tensors.update(self.steps[position].tensors)
        takers: dict[str, tuple[int, ...]] = {}
        for position in sorted(needed):
            for tensor in self.steps[position].tensors:
                takers[tensor] = (*takers.get(tensor, ()), position)
        uses = Counter({tensor: len(positions) for tensor, positions in takers.items()}) + Counter(wanted)
        asked = {
            position: tuple(name for name, tensor in self.steps[position].outputs.items() if tensor in uses)
            for position in needed
        }
        return Route(tuple(results), frozenset(wanted), asked, takers, uses)


def plan_from_config(config: ModelConfig, config_of: ConfigOf) -> EnsemblePlan:
    """Plan an ensemble over models that answer.

    Raises:
        InvalidInput: naming the step or the tensor that breaks a rule, or the model that does not answer.
    """
    check_ensemble(config)
    steps = config.ensemble_scheduling.step
    models = [_model(config, step, config_of) for step in steps]
    tensors = _tensors(config, steps, models)
    scopes = _Scopes(config, steps, models)
    planned = [
        PlannedStep(
            step.model_name,
            version_text(step),
            _feeds(step, model, tensors),
            tuple(dict.fromkeys(step.input_map.values())),
            dict(step.output_map),
            scopes.of_step[position],
            scopes.of_outputs[position],
        )
        for position, (step, model) in enumerate(zip(steps, models, strict=True))
    ]
    results = tuple(_results(config, tensors))
    return EnsemblePlan(tuple(planned), results, scopes.of_results, reshapes_of(config, config.input))


def version_text(step: ModelEnsembling.Step) -> str:
    """A step's version as the protocol spells it; -1, or nothing, is the newest."""
    return str(step.model_version) if step.model_version > 0 else ""


def _model(config: ModelConfig, step: ModelEnsembling.Step, config_of: ConfigOf) -> ModelConfig:
    try:
        model = config_of(step.model_name, version_text(step))
    except Error as problem:
        raise InvalidInput(f"ensemble '{config.name}' contains models that are not available: {problem}") from problem
    if 0 < model.max_batch_size < config.max_batch_size:
        raise InvalidInput(
            f"ensemble '{config.name}' allows maximum batch size {config.max_batch_size}, but it contains model "
            f"'{step.model_name}' which only allows maximum batch size to be {model.max_batch_size}."
        )
    return model


def _tensors(
    config: ModelConfig, steps: Sequence[ModelEnsembling.Step], models: Sequence[ModelConfig]
) -> dict[str, EnsembleTensor]:
    """What writes each tensor says what it is; what reads it must agree."""
    written = inner_tensors_of(config, config.input)
    for step, model in zip(steps, models, strict=True):
        own = tensors_of(model, model.output)
        for name, tensor in sorted(step.output_map.items()):
            if name not in own:
                raise InvalidInput(
                    f"in ensemble '{config.name}', ensemble tensor '{tensor}' is mapped from non-existing output "
                    f"'{name}' in model '{step.model_name}'; it has {sorted(own)}."
                )
            written[tensor] = own[name]
    for step, model in zip(steps, models, strict=True):
        _check_inputs(config, step, model, written)
    for name, own_output in inner_tensors_of(config, config.output).items():
        agree(config.name, name, written[name], own_output)
    return written


def _check_inputs(
    config: ModelConfig, step: ModelEnsembling.Step, model: ModelConfig, written: Mapping[str, EnsembleTensor]
) -> None:
    own = tensors_of(model, model.input)
    for name, tensor in sorted(step.input_map.items()):
        if name not in own:
            raise InvalidInput(
                f"in ensemble '{config.name}', ensemble tensor '{tensor}' is mapping to non-existing input "
                f"'{name}' in model '{step.model_name}'; it has {sorted(own)}."
            )
        agree(config.name, tensor, written[tensor], own[name])
    for tensor_config in model.input:
        if tensor_config.name not in step.input_map and not tensor_config.optional:
            raise InvalidInput(
                f"in ensemble '{config.name}', input '{tensor_config.name}' in model '{step.model_name}' is not "
                "mapped to any ensemble tensors."
            )


def _feeds(step: ModelEnsembling.Step, model: ModelConfig, tensors: Mapping[str, EnsembleTensor]) -> tuple[Feed, ...]:
    own = tensors_of(model, model.input)
    return tuple(
        Feed(name, tensor, own[name].dims, own[name].has_batch_axis, tensors[tensor].has_batch_axis)
        for name, tensor in sorted(step.input_map.items())
    )


def _results(config: ModelConfig, tensors: Mapping[str, EnsembleTensor]) -> Iterator[Feed]:
    reshapes = reshapes_of(config, config.output)
    for name, own in inner_tensors_of(config, config.output).items():
        inward = reshapes.get(name)
        outward = inward and Reshape(name, inward.after, inward.before)
        yield Feed(name, name, own.dims, own.has_batch_axis, tensors[name].has_batch_axis, outward)


class _Scopes:
    """How often each step runs; raises `InvalidInput` where inputs of one step come at different times."""

    def __init__(
        self, config: ModelConfig, steps: Sequence[ModelEnsembling.Step], models: Sequence[ModelConfig]
    ) -> None:
        self._name = config.name
        self._of_tensor = {tensor.name: 0 for tensor in config.input}
        self.of_step: dict[int, int] = {}
        self.of_outputs: dict[int, int] = {}
        decoupled = 0
        while len(self.of_step) < len(steps):
            for position, (step, model) in enumerate(zip(steps, models, strict=True)):
                tensors = step.input_map.values()
                if position in self.of_step or not all(tensor in self._of_tensor for tensor in tensors):
                    continue
                self.of_step[position] = scope = self._scope_of(tensors, f"step of model '{step.model_name}'")
                if model.model_transaction_policy.decoupled:
                    decoupled += 1
                    scope = decoupled
                self.of_outputs[position] = scope
                self._of_tensor.update(dict.fromkeys(step.output_map.values(), scope))
        self.of_results = self._scope_of([tensor.name for tensor in config.output], "the ensemble's response")

    def _scope_of(self, tensors: Iterable[str], receiver: str) -> int:
        scopes = {self._of_tensor[tensor] for tensor in tensors}
        if len(scopes) != 1:
            raise InvalidInput(
                f"in ensemble '{self._name}', {receiver} receives inputs originated from different decoupled models; "
                "all of them must come from the same one."
            )
        return scopes.pop()
