from typing import Any

import pytest

from enginehouse.config_paths import paths_of, set_fields
from enginehouse.model_config import config_from_text
from enginehouse.proto.model_config_pb2 import ModelConfig


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("max_batch_size: 8", ["max_batch_size"]),
        ("max_batch_size: 0", []),
        ("dynamic_batching { }", ["dynamic_batching"]),
        ("dynamic_batching { preserve_ordering: true }", ["dynamic_batching.preserve_ordering"]),
        ("input { name: 'x' } input { name: 'y' dims: 1 }", ["input.name", "input.dims"]),
        ("cc_model_filenames { key: '8.6' value: 'a' }", ["cc_model_filenames"]),
        ("parameters { key: 'k' value { string_value: 'v' } }", ["parameters"]),
        (
            "model_warmup { inputs { key: 'x' value { zero_data: true } } }",
            ["model_warmup.inputs.zero_data"],
        ),
    ],
)
def test_each_field_that_is_set_is_told_once_and_an_empty_message_as_itself(text: str, paths: list[str]) -> None:
    assert set_fields(config_from_text(text, "m")) == ["name", *paths]


def test_every_path_that_can_be_set_is_known() -> None:
    descriptor: Any = ModelConfig.DESCRIPTOR
    known = list(paths_of(descriptor))
    assert len(set(known)) == len(known)
    assert {"max_batch_size", "input.reshape.shape", "parameters", "model_warmup.inputs.dims"} <= set(known)
    assert not {"input", "model_warmup.inputs"} & set(known)
