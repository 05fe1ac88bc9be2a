"""What `sequence_batching` asks for is read, completed, and refused where it contradicts itself or the engine."""

import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelSequenceBatching
from enginehouse.sequence_config import Control, State, check_id, controls_from_config, states_from_config
from enginehouse.tensor import TensorSpec

FP32, INT32, INT64, BYTES = (DTYPES[name] for name in ("FP32", "INT32", "INT64", "BYTES"))
X = TensorSpec("x", FP32, (-1, 3))
Y = TensorSpec("y", FP32, (-1, 3))
START = TensorSpec("start", INT32, (-1, 1))
PAST = TensorSpec("past", FP32, (-1, 2, -1))
NEW_PAST = TensorSpec("new_past", FP32, (-1, 2, -1))
STATE = 'input_name: "past" output_name: "new_past" data_type: TYPE_FP32 dims: [ 2, -1 ]'
START_CONTROL = "control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }"


def completed(sequence_batching: str, rest: str = "max_batch_size: 4", *others: TensorSpec) -> ModelConfig:
    config = config_from_text(f"{rest} sequence_batching {{ {sequence_batching} }}", "m")
    complete_platform(config, ["model.onnx"])
    inputs = [X, *(spec for spec in others if spec.name != "new_past")]
    complete_config(config, inputs, [Y, *(spec for spec in others if spec.name == "new_past")])
    return config


def test_what_is_left_out_is_filled_in() -> None:
    batching = completed("").sequence_batching
    assert batching.HasField("direct")
    assert batching.max_sequence_idle_microseconds == 1_000_000
    assert list(completed("oldest { }").sequence_batching.oldest.preferred_batch_size) == [4]
    assert completed("max_sequence_idle_microseconds: 7").sequence_batching.max_sequence_idle_microseconds == 7


def test_what_the_server_fills_in_or_keeps_is_no_tensor_of_the_clients() -> None:
    text = f'control_input {{ name: "start" {START_CONTROL} }} state {{ {STATE} }}'
    config = completed(text, "max_batch_size: 4", START, PAST, NEW_PAST)
    assert [tensor.name for tensor in config.input] == ["x"]
    assert [tensor.name for tensor in config.output] == ["y"]
    assert controls_from_config(config) == (
        Control("start", ModelSequenceBatching.Control.CONTROL_SEQUENCE_START, INT32, 0, 1),
    )
    assert states_from_config(config) == (State("past", "new_past", FP32, (2, -1), (2, 1)),)


def test_an_initial_state_has_its_own_size_and_file() -> None:
    initial = 'initial_state { name: "i" data_type: TYPE_FP32 dims: [ 2, 5 ] data_file: "f" }'
    (state,) = states_from_config(completed(f"state {{ {STATE} {initial} }}", "max_batch_size: 4", PAST, NEW_PAST))
    assert (state.initial_shape, state.initial_file) == ((2, 5), "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("direct { minimum_slot_utilization: 1.5 }", "minimum_slot_utilization is 1.5; 0 to 1 expected"),
        ("oldest { preferred_batch_size: 5 }", r"preferred batch size 5 must lie in 1\.\.4"),
        ("oldest { max_candidate_sequences: -1 }", "max_candidate_sequences is -1; 0 or more expected"),
        (f"control_input {{ {START_CONTROL} }}", "control tensor must have a name"),
        ('control_input { name: "start" }', "must be given one control kind"),
        (f'control_input {{ name: "start" {START_CONTROL} {START_CONTROL} }}', "must be given one control kind"),
        (
            f'control_input {{ name: "start" {START_CONTROL} }} control_input {{ name: "more" {START_CONTROL} }}',
            "multiple CONTROL_SEQUENCE_START tensors",
        ),
        (
            'control_input { name: "start" control { kind: CONTROL_SEQUENCE_END } }',
            "must specify either int32_false_true, fp32_false_true, bool_false_true for CONTROL_SEQUENCE_END",
        ),
        (
            'control_input { name: "start" control { kind: CONTROL_SEQUENCE_END int32_false_true: [ 1 ] } }',
            "'int32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_END for m; got 1",
        ),
        (
            'control_input { name: "start" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } }',
            "CONTROL_SEQUENCE_CORRID of m takes a data_type of UINT64, INT64, UINT32, INT32, BYTES",
        ),
        (f'control_input {{ name: "gone" {START_CONTROL} }}', "control 'gone', which the engine does not have"),
        (f'control_input {{ name: "x" {START_CONTROL} }}', "'x' is filled in by the server, once; it is configured"),
        (
            'control_input { name: "start" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } }',
            r"sequence control 'start' is configured as FP32 \[-1, 1\]; the engine has INT32 \[-1, 1\]",
        ),
        (f"state {{ {STATE} }} state {{ {STATE} }}", "a sequence state is configured more than once"),
        ('state { input_name: "past" data_type: TYPE_FP32 dims: 2 }', "needs an input_name and an output_name"),
        (f"state {{ {STATE.replace('2, -1', '3, -1')} }}", r"state input 'past' is configured as FP32 \[-1, 3, -1\]"),
        (f"state {{ {STATE} initial_state {{ name: 'i' }} }}", "fit without open dimensions"),
        (
            f"state {{ {STATE} initial_state {{ name: 'i' data_type: TYPE_FP32 dims: [ 2, -1 ] zero_data: true }} }}",
            "fit without open dimensions",
        ),
        (f"state {{ {STATE} initial_state {{ name: 'i' data_type: TYPE_FP32 dims: [ 2, 1 ] }} }}", "zero_data or data"),
        (f"state {{ {STATE} initial_state {{ data_type: TYPE_FP32 dims: [ 2, 1 ] }} }}", "'name' must be set"),
        (
            f"state {{ {STATE} initial_state {{ name: 'i' data_type: TYPE_FP32 dims: [ 2, 1 ] data_file: '../f' }} }}",
            "data_file '../f' must name a file in initial_state/",
        ),
        (
            f"state {{ {STATE} initial_state {{ name: 'i' }} initial_state {{ name: 'j' }} }}",
            "one initial_state or none, found 2",
        ),
    ],
)
def test_a_contradiction_is_named(text: str, message: str) -> None:
    has_state = "state {" in text
    others = (START, PAST, NEW_PAST) if has_state else (START,)
    with pytest.raises(InvalidInput, match=message):
        completed(text, 'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 3 }', *others)


def test_what_cannot_be_done_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="iterative_sequence"):
        completed("iterative_sequence: true")
    flat = TensorSpec("x", FP32, (-1,))
    config = config_from_text(
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true } '
        "sequence_batching { }",
        "m",
    )
    complete_platform(config, ["model.onnx"])
    with pytest.raises(NotSupported, match="allow_ragged_batch together with sequence_batching"):
        complete_config(config, [flat], [Y])


@pytest.mark.parametrize(("value", "dtype"), [(-1, INT64), (2**31 - 1, INT32), ("text", BYTES)])
def test_an_id_that_fits_is_taken(value: int | str, dtype: object) -> None:
    check_id("m", value, dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "dtype"), [(2**31, INT32), ("text", INT64), (5, BYTES)])
def test_an_id_that_does_not_fit_is_refused(value: int | str, dtype: object) -> None:
    with pytest.raises(InvalidInput, match="sequence ids of model 'm' must be"):
        check_id("m", value, dtype)  # type: ignore[arg-type]
