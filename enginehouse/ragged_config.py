"""What ragged batching asks for: inputs joined flat, inputs that describe a batch, outputs cut like an input.

The rules are Triton's: a ragged input is one flat vector to the engine, and `batch_input` tells it where each request
begins. What a configuration must hold by itself is checked in `config_rules.py`; here it meets the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.dtype import DType, dtype_from_config_name
from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import BatchInput, DataType, ModelConfig
from enginehouse.tensor import TensorSpec


@dataclass(slots=True, frozen=True)
class Derived:
    """An input of the engine that is computed from the shapes of another.

    Attributes:
        targets: inputs of the engine that take it.
        source: the client's input whose shapes it tells.
    """

    kind: BatchInput.Kind
    targets: tuple[str, ...]
    dtype: DType
    source: str


def ragged_inputs(config: ModelConfig) -> frozenset[str]:
    """Inputs whose requests are joined into one flat vector, whatever their shapes."""
    return frozenset(tensor.name for tensor in config.input if tensor.allow_ragged_batch)


def derived_from_config(config: ModelConfig) -> tuple[Derived, ...]:
    """Read `batch_input`."""
    return tuple(
        Derived(
            rule.kind,
            tuple(rule.target_name),
            dtype_from_config_name(DataType.Name(rule.data_type)),
            rule.source_input[0],
        )
        for rule in config.batch_input
    )


def scattered_outputs(config: ModelConfig) -> dict[str, str]:
    """Outputs that are cut by the shapes of an input, with its name."""
    return {target: rule.source_input[0] for rule in config.batch_output for target in rule.target_name}


def check_ragged(config: ModelConfig, inputs: Sequence[TensorSpec]) -> None:
    """Compare a configuration that keeps its own rules with the engine; raises `InvalidInput` naming what is wrong."""
    ragged, derived, scattered = ragged_inputs(config), derived_from_config(config), scattered_outputs(config)
    if (ragged or derived or scattered) and not config.max_batch_size:
        raise InvalidInput(
            f"model '{config.name}': allow_ragged_batch, batch_input and batch_output need max_batch_size above 0."
        )
    found = {spec.name: spec for spec in inputs}
    _check_sources(config, {rule.source for rule in derived} | set(scattered.values()))
    _check_derived(config, derived, found)
    _check_scattered(config, scattered)


def _check_sources(config: ModelConfig, sources: set[str]) -> None:
    for tensor in config.input:
        if tensor.optional and tensor.name in sources:
            raise InvalidInput(
                f"model '{config.name}': input '{tensor.name}' is optional, and batch_input or batch_output need its "
                "shape; make it required."
            )


def _check_derived(config: ModelConfig, derived: Sequence[Derived], found: dict[str, TensorSpec]) -> None:
    sources = {tensor.name: tensor for tensor in config.input}
    for rule in derived:
        is_matrix = rule.kind == BatchInput.BATCH_ITEM_SHAPE
        columns = (len(sources[rule.source].dims),) if is_matrix else ()
        for target in rule.targets:
            if target in sources:
                raise InvalidInput(f"model '{config.name}': clients cannot send batch input '{target}' too.")
            spec = found.get(target)
            if spec is None:
                raise InvalidInput(
                    f"model '{config.name}': batch_input names '{target}', which the engine does not have; "
                    f"its inputs are {sorted(found)}."
                )
            if spec.dtype is not rule.dtype or spec.shape not in ((-1, *columns), (-1, *(-1 for _ in columns))):
                raise InvalidInput(
                    f"model '{config.name}': batch input '{target}' is {rule.dtype.name} {[-1, *columns]}; "
                    f"the engine has {spec}."
                )


def _check_scattered(config: ModelConfig, scattered: dict[str, str]) -> None:
    """An open dimension of the output takes the size of the input's at the same place, so it must have one there."""
    ranks = {tensor.name: len(tensor.dims) for tensor in config.input}
    for output in config.output:
        source = scattered.get(output.name)
        if source is not None and any(size == -1 for size in output.dims[ranks[source] :]):
            raise InvalidInput(
                f"model '{config.name}': output '{output.name}' has dims {list(output.dims)}; "
                f"input '{source}' has only {ranks[source]} to fill the open ones."
            )
