"""One request each of several sequences runs together: rows, controls and states find each other again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from enginehouse.tensor import Tensors, TensorSpec
from service.request import InferRequest
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout
from service.sequences.sequence_computation import SequenceComputation, SequenceRules, sequence_rules
from service.sequences.sequence_line import PlacedPosition, SequenceState
from tests.service.conftest import tensor

BYTES, INT64 = DTYPES["BYTES"], DTYPES["INT64"]
WORD = TensorSpec("word", BYTES, (-1, 1))
TEXT = TensorSpec("text", BYTES, (-1, 1))
STATES = 'state { input_name: "past" output_name: "text" data_type: TYPE_STRING dims: [ 1 ] }'
READY = 'control_input { name: "ready" control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ -1, 5 ] } }'
ID = 'control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }'


def rules(batching: str, directory: Path = Path(), rows: int = 4) -> SequenceRules:
    text = f"max_batch_size: {rows} sequence_batching {{ {batching} }}"
    return sequence_rules(config_from_text(text, "m"), directory)


def ask(word: str, slot: int, state: SequenceState, sequence: str = "id", is_end: bool = False) -> Pending:
    words = tensor(np.array([[word]], object), "word", "BYTES")
    position = PlacedPosition(sequence, state.values is None, is_end, slot, state)
    return Pending(InferRequest("m", "", (words,), sequence=position), lambda _: None, 1, None)


def append(feeds: Tensors) -> Tensors:
    return {"text": feeds["past"].astype("S9") + feeds["word"].astype("S9")}


def append_objects(feeds: Tensors) -> Tensors:
    return {name: array.astype(object) for name, array in append(feeds).items()}


def computation(
    of: SequenceRules, function: Callable[[Tensors], Tensors] = append_objects
) -> tuple[SequenceComputation, FakeEngine]:
    engine = FakeEngine((WORD,), (TEXT,), function)
    return SequenceComputation(engine, Layout((WORD,), (TEXT,), {}, True), of), engine


def texts(one: SequenceComputation, *pendings: Pending) -> list[bytes]:
    return [bytes(answer.outputs[0].data)[4:] for answer in one.compute(pendings)]


def test_text_is_remembered_as_text_and_absent_rows_hold_none() -> None:
    one, engine = computation(rules(f"direct {{ }} {READY} {ID} {STATES}"))
    first, second = SequenceState(), SequenceState()
    assert texts(one, ask("a", 0, first, "A"), ask("x", 2, second, "B")) == [b"a", b"x"]
    (feeds,) = engine.runs
    assert feeds["ready"].tolist() == [[5], [-1], [5]]
    assert feeds["id"].tolist() == [["A"], [b""], ["B"]]
    assert feeds["word"].tolist() == [[b"a"], [b""], [b"x"]]
    assert texts(one, ask("y", 2, second)) == [b"xy"]
    assert texts(one, ask("b", 0, first)) == [b"ab"]


def test_the_last_step_forgets_the_state() -> None:
    one, _ = computation(rules(f"oldest {{ }} {STATES}"))
    state = SequenceState()
    texts(one, ask("a", 0, state))
    assert state.values is not None
    texts(one, ask("b", 0, state, is_end=True))
    assert state.values is None


def test_a_state_is_no_window_into_the_batch_that_made_it() -> None:
    """Else one long sequence would keep every batch in memory that it ever ran in."""
    one, _ = computation(rules(f"oldest {{ }} {STATES}"))
    states = [SequenceState() for _ in range(3)]
    one.compute([ask("a", slot, state) for slot, state in enumerate(states)])
    assert all(state.values is not None and state.values["past"].base is None for state in states)


def test_without_a_batch_dimension_the_whole_tensor_is_the_state() -> None:
    word, text = TensorSpec("word", BYTES, (1,)), TensorSpec("text", BYTES, (1,))
    engine = FakeEngine((word,), (text,), append_objects)
    one = SequenceComputation(engine, Layout((word,), (text,), {}, False), rules(f"{ID} {STATES}", rows=0))
    state = SequenceState()
    for expected, letter in [(b"a", "a"), (b"ab", "b")]:
        words = tensor(np.array([letter], object), "word", "BYTES")
        position = PlacedPosition("s", False, False, 0, state)
        pending = Pending(InferRequest("m", "", (words,), sequence=position), lambda _: None, 1, None)
        assert texts(one, pending) == [expected]
    assert engine.runs[0]["id"].tolist() == ["s"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: {}, "state output 'text' is nothing; BYTES"),
        (lambda feeds: {"text": feeds["word"][:1]}, r"output 'text' has shape \[1, 1\] for 2 rows"),
        (lambda _: {"text": np.zeros((2, 1))}, r"state output 'text' is float64 \[1, 1\]; BYTES \[1, 1\]"),
    ],
)
def test_what_the_engine_did_not_give_is_named_and_changes_no_state(
    function: Callable[[Tensors], Tensors], message: str
) -> None:
    one, _ = computation(rules(f"direct {{ }} {STATES}"), function)
    state = SequenceState()
    with pytest.raises(EngineFailed, match=message):
        one.compute([ask("a", 1, state)])
    assert state.values is None


def test_an_initial_state_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "f").write_bytes(np.array([7, 8], np.int64).tobytes())
    text = (
        'state { input_name: "past" output_name: "text" data_type: TYPE_INT64 dims: [ -1 ] '
        'initial_state { name: "i" data_type: TYPE_INT64 dims: [ DIMS ] data_file: "f" } }'
    )
    assert rules(text.replace("DIMS", "2"), tmp_path).initial["past"].tolist() == [7, 8]
    with pytest.raises(InvalidInput, match="initial_state in f is wrong: 16 bytes given, 24 expected"):
        rules(text.replace("DIMS", "3"), tmp_path)
    with pytest.raises(InvalidInput, match="model 'm': initial_state cannot be read"):
        rules(text.replace("DIMS", "2"), tmp_path / "elsewhere")


def test_closing_closes_the_engine() -> None:
    one, engine = computation(rules(STATES))
    one.close()
    assert engine.is_closed
