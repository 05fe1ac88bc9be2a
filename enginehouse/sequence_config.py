"""What `sequence_batching` asks for, checked and in plain words: control inputs, states, strategy.

The rules are Triton's: a control input is `[1]` (behind the batch dimension); a state is one input and one output of
the engine, which clients never see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from enginehouse.dtype import DTYPES, DType, dtype_from_config_name
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import DataType, ModelConfig, ModelSequenceBatching
from enginehouse.tensor import TensorSpec, shape_fits

DEFAULT_IDLE_MICROSECONDS = 1_000_000
INITIAL_STATE_FOLDER = "initial_state"

_Kind = ModelSequenceBatching.Control.Kind
CORRID = ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID
_FLAG_FIELDS = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
_ID_DTYPES = ("UINT64", "INT64", "UINT32", "INT32", "BYTES")


@dataclass(slots=True, frozen=True)
class Control:
    """One input that the server fills in: where a row stands in its sequence.

    Attributes:
        kind: `CONTROL_SEQUENCE_START` and so on.
        off: what the input holds where that is not so; nothing for CORRID.
        on: what it holds where it is.
    """

    name: str
    kind: ModelSequenceBatching.Control.Kind
    dtype: DType
    off: float = 0
    on: float = 1


@dataclass(slots=True, frozen=True)
class State:
    """An output that comes back as an input with the sequence's next request.

    Attributes:
        shape: of one row; open dimensions are -1.
        initial_shape: of the first request's row.
        initial_file: name of the file that holds it; empty for zeros.
    """

    input_name: str
    output_name: str
    dtype: DType
    shape: tuple[int, ...]
    initial_shape: tuple[int, ...]
    initial_file: str = ""


def complete_sequence_batching(config: ModelConfig) -> None:
    """Fill in what is left out: the direct strategy, one second of idleness, batches as large as they may be."""
    batching = config.sequence_batching
    if batching.WhichOneof("strategy_choice") is None:
        batching.direct.SetInParent()
    batching.max_sequence_idle_microseconds = batching.max_sequence_idle_microseconds or DEFAULT_IDLE_MICROSECONDS
    if batching.HasField("oldest") and not batching.oldest.preferred_batch_size and config.max_batch_size:
        batching.oldest.preferred_batch_size.append(config.max_batch_size)


def check_sequence_batching(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Compare controls and states with the engine, and the strategy with the batch size.

    Raises:
        InvalidInput: naming what is wrong.
        NotSupported: sequences whose requests are joined flat.
    """
    name = config.name
    _check_strategy(config)
    if any(tensor.allow_ragged_batch for tensor in config.input):
        raise NotSupported(f"model '{name}': allow_ragged_batch together with sequence_batching is not supported.")
    controls, states = controls_from_config(config), states_from_config(config)
    own = [control.name for control in controls] + [state.input_name for state in states]
    sent = {tensor.name for tensor in config.input}
    for filled in own:
        if own.count(filled) > 1 or filled in sent:
            raise InvalidInput(f"model '{name}': '{filled}' is filled in by the server, once; it is configured twice.")
    batch = (-1,) if config.max_batch_size > 0 else ()
    found = {spec.name: spec for spec in inputs}
    for control in controls:
        _check_tensor(name, "sequence control", found.get(control.name), control.name, control.dtype, (*batch, 1))
    given = {spec.name: spec for spec in outputs}
    for state in states:
        shape = (*batch, *state.shape)
        _check_tensor(name, "state input", found.get(state.input_name), state.input_name, state.dtype, shape)
        _check_tensor(name, "state output", given.get(state.output_name), state.output_name, state.dtype, shape)


def controls_from_config(config: ModelConfig) -> tuple[Control, ...]:
    """Read the control inputs; raises `InvalidInput` for a kind or a tensor given twice, and for wrong values."""
    controls: list[Control] = []
    for tensor in config.sequence_batching.control_input:
        if not tensor.name:
            raise InvalidInput(f"sequence batching control tensor must have a name for {config.name}")
        if len(tensor.control) != 1 or any(control.name == tensor.name for control in controls):
            raise InvalidInput(
                f"sequence batching control tensor '{tensor.name}' of {config.name} must be given one control kind."
            )
        control = _control(config.name, tensor.name, tensor.control[0])
        if any(other.kind == control.kind for other in controls):
            raise InvalidInput(
                f"sequence batching specifies multiple {_Kind.Name(control.kind)} tensors for {config.name}"
            )
        controls.append(control)
    return tuple(controls)


def states_from_config(config: ModelConfig) -> tuple[State, ...]:
    """Read the states; raises `InvalidInput` for one given twice and for an initial value that cannot be its own."""
    states = tuple(_state(config.name, state) for state in config.sequence_batching.state)
    for names in ([state.input_name for state in states], [state.output_name for state in states]):
        if len(set(names)) != len(names):
            raise InvalidInput(f"model '{config.name}': a sequence state is configured more than once, of {names}.")
    return states


def _check_strategy(config: ModelConfig) -> None:
    batching = config.sequence_batching
    if batching.iterative_sequence:
        raise NotSupported(f"model '{config.name}': sequence_batching.iterative_sequence is not supported.")
    utilization = batching.direct.minimum_slot_utilization
    if not 0 <= utilization <= 1:
        raise InvalidInput(f"model '{config.name}': minimum_slot_utilization is {utilization:g}; 0 to 1 expected.")
    if batching.oldest.max_candidate_sequences < 0:
        raise InvalidInput(
            f"model '{config.name}': max_candidate_sequences is {batching.oldest.max_candidate_sequences}; "
            "0 or more expected."
        )
    for size in batching.oldest.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            raise InvalidInput(
                f"model '{config.name}': sequence batching preferred batch size {size} "
                f"must lie in 1..{config.max_batch_size}."
            )


def _check_tensor(
    model: str, what: str, spec: TensorSpec | None, name: str, dtype: DType, shape: tuple[int, ...]
) -> None:
    if spec is None:
        raise InvalidInput(f"model '{model}': configuration specified {what} '{name}', which the engine does not have.")
    if spec.dtype is not dtype or not (shape_fits(shape, spec.shape) or shape_fits(spec.shape, shape)):
        raise InvalidInput(
            f"model '{model}': {what} '{name}' is configured as {dtype.name} {list(shape)}; the engine has "
            f"{spec.dtype.name} {list(spec.shape)}."
        )


def _control(model: str, name: str, control: ModelSequenceBatching.Control) -> Control:
    kind = _Kind.Name(control.kind)
    given = [field for field in _FLAG_FIELDS if getattr(control, field)]
    if control.kind == CORRID:
        dtype = dtype_from_config_name(DataType.Name(control.data_type))
        if given or dtype.name not in _ID_DTYPES:
            raise InvalidInput(
                f"sequence batching control {kind} of {model} takes a data_type of {', '.join(_ID_DTYPES)} "
                f"and nothing else; got {dtype.name} and {given}."
            )
        return Control(name, control.kind, dtype)
    if len(given) != 1 or control.data_type:
        raise InvalidInput(
            f"sequence batching must specify either {', '.join(_FLAG_FIELDS)} for {kind} for {model}; got {given}."
        )
    values = getattr(control, given[0])
    if len(values) != 2:
        raise InvalidInput(
            f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} for {model}; "
            f"got {len(values)}."
        )
    return Control(name, control.kind, DTYPES[_FLAG_FIELDS[given[0]]], *values)


def _state(model: str, state: ModelSequenceBatching.State) -> State:
    if not state.input_name or not state.output_name:
        raise InvalidInput(f"model '{model}': a sequence state needs an input_name and an output_name.")
    dtype = dtype_from_config_name(DataType.Name(state.data_type))
    shape = tuple(state.dims)
    initial_shape = tuple(1 if size == -1 else size for size in shape)
    where = f"model '{model}': state input '{state.input_name}'"
    if len(state.initial_state) > 1:
        raise InvalidInput(f"{where} must have one initial_state or none, found {len(state.initial_state)}.")
    if not state.initial_state:
        return State(state.input_name, state.output_name, dtype, shape, initial_shape)
    initial = state.initial_state[0]
    if not initial.name:
        raise InvalidInput(f"{where}: field 'name' must be set when using initial_state.")
    if initial.data_type != state.data_type or not shape_fits(initial.dims, shape) or -1 in initial.dims:
        raise InvalidInput(
            f"{where} is {dtype.name} {list(shape)}; its initial_state is {DataType.Name(initial.data_type)} "
            f"{list(initial.dims)}, which must be of the same type and fit without open dimensions."
        )
    if initial.WhichOneof("state_data") is None:
        raise InvalidInput(f"{where}: initial_state must have zero_data or data_file set.")
    if initial.data_file and PurePath(initial.data_file).name != initial.data_file:
        raise InvalidInput(f"{where}: data_file '{initial.data_file}' must name a file in {INITIAL_STATE_FOLDER}/.")
    return State(state.input_name, state.output_name, dtype, shape, tuple(initial.dims), initial.data_file)


def check_id(model: str, sequence_id: int | str, dtype: DType) -> None:
    """Raise `InvalidInput` for an id that the engine's CORRID input cannot hold."""
    if not dtype.size_bytes:
        if not isinstance(sequence_id, str):
            raise InvalidInput(f"sequence ids of model '{model}' must be text; got the number {sequence_id}.")
        return
    limits = np.iinfo(dtype.numpy)
    if isinstance(sequence_id, str) or not limits.min <= sequence_id <= limits.max:
        raise InvalidInput(
            f"sequence ids of model '{model}' must be whole numbers from {limits.min} to {limits.max}; "
            f"got {sequence_id!r:.100}."
        )
