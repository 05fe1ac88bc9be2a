from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from enginehouse.errors import InvalidInput
from optimizer.recipe import Recipe, recipe_from_options

LEAST: dict[str, Any] = {"model": Path("a.onnx"), "name": "a", "repository": Path("repository")}


def test_defaults_are_those_of_the_documentation() -> None:
    recipe = recipe_from_options(**LEAST)
    assert (recipe.max_drop, recipe.golden, recipe.max_batch_size, recipe.seed) == ("1%", "calibration", None, 0)
    assert recipe.tolerance.value == 0.01


def test_a_recipe_never_changes_and_refuses_unknown_names() -> None:
    with pytest.raises(ValidationError):
        recipe_from_options(**LEAST).name = "b"
    with pytest.raises(ValidationError):
        Recipe(**{**LEAST, "speed": "high"})


def test_it_is_json() -> None:
    assert recipe_from_options(**LEAST).model_dump(mode="json")["model"] == "a.onnx"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"name": "../a"}, "--name is '../a': expected letters, digits"),
        ({"name": ".hidden"}, "--name is '.hidden'"),
        ({"metric": "accuracy"}, "--metric is 'accuracy'; expected one of top1"),
        ({"precision": "int3"}, "--precision is 'int3': expected 'auto', 'fp32'"),
        ({"engine": "triton"}, "--engine is 'triton': expected 'auto', 'onnxruntime', 'openvino', 'tensorrt' or"),
        ({"objective": "fun"}, "--objective is 'fun': expected 'latency'"),
        ({"budget": "10"}, "--budget is '10': expected a number with a unit: 90s, 10m or 2h"),
        ({"target": "sm_12"}, "--target is 'sm_12'; expected one of host"),
        ({"serving_batch": 0}, "--serving-batch is '0'"),
        ({"golden": "none"}, "--golden is 'none'"),
        ({"max_batch_size": 0}, "--max-batch-size is '0'"),
        ({"benchmark_seconds": -1.0}, "--benchmark-seconds is '-1.0'"),
        ({"seed": -1}, "--seed is '-1'"),
        ({"max_drop": "much"}, "--max-drop is 'much'; expected a percent"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        recipe_from_options(**{**LEAST, **option})
    assert str(caught.value).startswith(message)


def test_the_name_that_the_protocol_keeps_is_refused() -> None:
    with pytest.raises(InvalidInput, match="/v2/models/stats"):
        recipe_from_options(model=Path("m.onnx"), name="stats", repository=Path("models"))
