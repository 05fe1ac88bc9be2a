"""Ragged batching is read, and refused where it contradicts the engine."""

import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import BatchInput, ModelConfig
from enginehouse.ragged_config import Derived, derived_from_config, ragged_inputs, scattered_outputs
from enginehouse.tensor import TensorSpec

FP32, INT32 = DTYPES["FP32"], DTYPES["INT32"]
X = TensorSpec("x", FP32, (-1,))
Y = TensorSpec("y", FP32, (-1,))
INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }'
OUTPUT = 'output { name: "y" data_type: TYPE_FP32 dims: -1 }'
COUNT = 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }'
SCATTER = 'batch_output { target_name: "y" source_input: "x" }'


def completed(text: str, *others: TensorSpec) -> ModelConfig:
    config = config_from_text(text, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, [X, *others], [Y])
    return config


def test_what_is_joined_derived_and_scattered_is_read() -> None:
    config = completed(f"max_batch_size: 4 {INPUT} {OUTPUT} {COUNT} {SCATTER}", TensorSpec("n", INT32, (-1,)))
    assert ragged_inputs(config) == {"x"}
    assert derived_from_config(config) == (Derived(BatchInput.BATCH_ELEMENT_COUNT, ("n",), INT32, "x"),)
    assert scattered_outputs(config) == {"y": "x"}


@pytest.mark.parametrize(
    ("text", "others", "message"),
    [
        (f"{INPUT} {OUTPUT} {SCATTER}", (), "need max_batch_size above 0"),
        (f"max_batch_size: 4 {INPUT} {OUTPUT} {COUNT} {SCATTER}", (), "names 'n', which the engine does not have; its"),
        (
            f"max_batch_size: 4 {INPUT} {OUTPUT} {COUNT} {SCATTER}",
            (TensorSpec("n", FP32, (-1,)),),
            r"batch input 'n' is INT32 \[-1\]; the engine has n FP32 \[-1\]",
        ),
        (
            f"max_batch_size: 4 {INPUT} {OUTPUT} {COUNT.replace('BATCH_ELEMENT_COUNT', 'BATCH_ITEM_SHAPE')} {SCATTER}",
            (TensorSpec("n", INT32, (-1,)),),
            r"batch input 'n' is INT32 \[-1, 1\]",
        ),
        (
            f"max_batch_size: 4 {INPUT} {OUTPUT} {COUNT} {SCATTER}".replace('"n"', '"x"'),
            (),
            "clients cannot send batch input 'x' too",
        ),
        (
            f"max_batch_size: 4 {INPUT} {OUTPUT} {SCATTER}".replace("allow_ragged_batch", "optional"),
            (),
            "input 'x' is optional, and batch_input or batch_output need its shape",
        ),
        (
            f"max_batch_size: 4 {INPUT} {OUTPUT.replace('-1', '[ 2, -1 ]')} {SCATTER}",
            (),
            "input 'x' has only 1 to fill the open ones",
        ),
    ],
)
def test_a_contradiction_is_named(text: str, others: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        completed(text, *others)
