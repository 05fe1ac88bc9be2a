"""Which versions go on when a model's files changed."""

import pytest

from service.loading.model_files import ModelFiles

BEFORE = {"config.pbtxt": "a", "1/model.onnx": "b", "2/model.onnx": "c", "withdrawn.3/model.onnx": "d"}


@pytest.mark.parametrize(
    ("change", "unchanged"),
    [
        ({}, {1, 2}),
        ({"2/model.onnx": "other"}, {1}),
        ({"3/model.onnx": "new"}, {1, 2}),
        ({"config.pbtxt": "other"}, set()),
        ({"labels.txt": "new"}, set()),
    ],
)
def test_a_version_is_the_same_as_long_as_its_files_and_the_shared_ones_are(
    change: dict[str, str], unchanged: set[int]
) -> None:
    now = ModelFiles({**BEFORE, **change})
    assert {version for version in (1, 2) if now.are_those_of(ModelFiles(BEFORE), version)} == unchanged


def test_a_file_that_is_gone_is_a_change() -> None:
    now = ModelFiles({"config.pbtxt": "a", "2/model.onnx": "c", "withdrawn.3/model.onnx": "d"})
    assert not now.are_those_of(ModelFiles(BEFORE), 1)
    assert now.are_those_of(ModelFiles(BEFORE), 2)


def test_without_a_look_nothing_is_known_to_be_the_same() -> None:
    looked, blind = ModelFiles(BEFORE), ModelFiles(None)
    assert not looked.are_those_of(None, 1)
    assert not looked.are_those_of(blind, 1)
    assert not blind.are_those_of(looked, 1)
