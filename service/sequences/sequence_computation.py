"""Runs one request each of several sequences together: tells the engine where they stand, and keeps what they know."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array, DType, array_from_bytes
from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelSequenceBatching
from enginehouse.sequence_config import (
    CORRID,
    INITIAL_STATE_FOLDER,
    Control,
    State,
    controls_from_config,
    states_from_config,
)
from enginehouse.tensor import Tensors, shape_fits
from service.request import InferRequest, SequencePosition
from service.scheduling.computation import Answer, Execution
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout, join, split
from service.sequences.sequence_line import PlacedPosition

_START = ModelSequenceBatching.Control.CONTROL_SEQUENCE_START
_END = ModelSequenceBatching.Control.CONTROL_SEQUENCE_END
_READY = ModelSequenceBatching.Control.CONTROL_SEQUENCE_READY


@dataclass(slots=True, frozen=True)
class SequenceRules:
    """What the engine wants besides the clients' tensors.

    Attributes:
        initial: the state of a sequence that starts, by input name.
        has_fixed_slots: whether each sequence must stay in its own row; rows of others are then filled up and marked
            as not ready.
    """

    controls: tuple[Control, ...]
    states: tuple[State, ...]
    initial: Mapping[str, Array]
    has_fixed_slots: bool


def sequence_rules(config: ModelConfig, model_directory: Path) -> SequenceRules:
    """Read the rules of a complete configuration, and the files of its initial states.

    Raises:
        InvalidInput: a file is missing or does not hold what the configuration says.
    """
    states = states_from_config(config)
    initial = {state.input_name: _initial(state, model_directory, config.name) for state in states}
    has_fixed_slots = config.max_batch_size > 0 and not config.sequence_batching.HasField("oldest")
    return SequenceRules(controls_from_config(config), states, initial, has_fixed_slots)


class SequenceComputation:
    """Runs one request of each sequence at a time.

    The states of a batch change together, after all of it went well: a batch that failed can be run again.
    """

    def __init__(self, engine: Engine, layout: Layout, rules: SequenceRules) -> None:
        self._engine = engine
        self._layout = layout
        self._rules = rules
        # With fixed slots, one request in the last slot costs as much as a full batch.
        self.may_run_inline = (
            layout.has_fixed_rows and not rules.has_fixed_slots and all(-1 not in state.shape for state in rules.states)
        )

    def compute(self, pendings: Sequence[Pending]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        states: dict[int, dict[str, Array]] = {}
        for members in self._of_one_shape([_position(pending) for pending in pendings]):
            part, new_states = self._run([pendings[member] for member in members])
            answers |= dict(zip(members, part, strict=True))
            states |= dict(zip(members, new_states, strict=True))
        for member, values in states.items():
            position = _position(pendings[member])
            position.state.values = None if position.is_end else values
        return [answers[member] for member in range(len(pendings))]

    def close(self) -> None:
        self._engine.close()

    def _of_one_shape(self, positions: Sequence[PlacedPosition]) -> list[list[int]]:
        """Part a batch so that the states of each part can be joined: those that grow differ from row to row."""
        parts: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for member, position in enumerate(positions):
            values = self._values(position)
            shapes = tuple(values[state.input_name].shape for state in self._rules.states)
            parts.setdefault(shapes, []).append(member)
        return list(parts.values())

    def _values(self, position: PlacedPosition) -> Mapping[str, Array]:
        return self._rules.initial if position.state.values is None else position.state.values

    def _run(self, pendings: Sequence[Pending]) -> tuple[list[Answer], list[dict[str, Array]]]:
        requests = [pending.request for pending in pendings]
        positions = [_position(pending) for pending in pendings]
        start = time.monotonic()
        slots = [position.slot for position in positions] if self._rules.has_fixed_slots else list(range(len(requests)))
        feeds = self._feeds(requests, positions, slots)
        joined = time.monotonic()
        outputs = self._engine.run(feeds)
        computed = time.monotonic()
        outputs = self._own_rows(outputs, slots)
        states = self._split_states(outputs, len(requests))
        pieces = split(outputs, requests, [1] * len(requests), self._layout)
        execution = Execution(len(requests), joined - start, computed - joined, time.monotonic() - computed)
        return [Answer(outputs=piece, execution=execution) for piece in pieces], states

    def _feeds(
        self, requests: Sequence[InferRequest], positions: Sequence[PlacedPosition], slots: Sequence[int]
    ) -> Tensors:
        feeds = dict(join(requests, self._layout))
        for state in self._rules.states:
            rows = [self._values(position)[state.input_name] for position in positions]
            feeds[state.input_name] = np.stack(rows) if self._layout.has_batch_axis else rows[0]
        for control in self._rules.controls:
            feeds[control.name] = control_array(control, positions, self._layout.has_batch_axis)
        height = max(slots) + 1
        if height == len(slots):
            return feeds
        absent = {control.name: control.off for control in self._rules.controls if control.kind != CORRID}
        return {name: _spread(array, slots, height, absent.get(name, 0)) for name, array in feeds.items()}

    def _own_rows(self, outputs: Tensors, slots: Sequence[int]) -> Tensors:
        """Leave out the rows that nobody asked for."""
        height = max(slots) + 1
        if height == len(slots):
            return outputs
        needed = {spec.name for spec in self._layout.outputs} | {state.output_name for state in self._rules.states}
        own: dict[str, Array] = {}
        for name in needed & set(outputs):
            array = outputs[name]
            if array.ndim == 0 or array.shape[0] != height:
                raise EngineFailed(
                    f"output '{name}' has shape {list(array.shape)} for {height} rows; "
                    f"its first dimension must be {height}."
                )
            own[name] = array[list(slots)]
        return own

    def _split_states(self, outputs: Tensors, count: int) -> list[dict[str, Array]]:
        """Take each row's new state, as a copy: the rows of a batch have no more to do with each other."""
        states: list[dict[str, Array]] = [{} for _ in range(count)]
        for state in self._rules.states:
            array = outputs.get(state.output_name)
            batch = (count,) if self._layout.has_batch_axis else ()
            if array is None or not shape_fits(array.shape, (*batch, *state.shape)) or not _is_of(array, state.dtype):
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                expected = f"{state.dtype.name} {[*batch, *state.shape]}"
                raise EngineFailed(f"state output '{state.output_name}' is {found}; {expected} expected.")
            for row, values in enumerate(states):
                values[state.input_name] = array[row].copy() if batch else array
        return states


def _position(pending: Pending) -> PlacedPosition:
    position = pending.request.sequence
    assert isinstance(position, PlacedPosition)
    return position


def control_array(control: Control, positions: Sequence[SequencePosition], has_batch_axis: bool) -> Array:
    """What a control input holds for requests that stand at these positions, a row each."""
    if control.kind == CORRID:
        values: list[object] = [position.id for position in positions]
    else:
        are_on = {
            _START: [position.is_start for position in positions],
            _END: [position.is_end for position in positions],
            _READY: [True] * len(positions),
        }[control.kind]
        values = [control.on if is_on else control.off for is_on in are_on]
    array = np.array(values, control.dtype.numpy)
    return array.reshape(-1, 1) if has_batch_axis else array


def _spread(array: Array, slots: Sequence[int], height: int, filling: float) -> Array:
    """Put each row into its slot; the others hold the filling, which text has none of."""
    spread: Array = np.full((height, *array.shape[1:]), b"" if array.dtype.hasobject else filling, array.dtype)
    spread[list(slots)] = array
    return spread


def _is_of(array: Array, dtype: DType) -> bool:
    return array.dtype == dtype.numpy if dtype.size_bytes else array.dtype.kind in "OSU"


def _initial(state: State, model_directory: Path, model: str) -> Array:
    if not state.initial_file:
        filling = b"" if state.dtype.numpy.hasobject else 0
        return np.full(state.initial_shape, filling, state.dtype.numpy)
    path = model_directory / INITIAL_STATE_FOLDER / state.initial_file
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise InvalidInput(f"model '{model}': initial_state cannot be read: {problem}.") from problem
    try:
        return array_from_bytes(data, state.dtype, state.initial_shape).copy()
    except InvalidInput as problem:
        raise InvalidInput(f"model '{model}': initial_state in {path.name} is wrong: {problem}") from problem
