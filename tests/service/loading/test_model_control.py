"""Which models a server starts with: a repository that holds none, or something like one, is not passed over."""

import logging
from pathlib import Path
from typing import Any

import pytest

from service.loading.model_control import ModelControl
from service.loading.repositories import open_repositories


def control(root: Path) -> ModelControl:
    """One that looks, and loads nothing."""
    unused: Any = None
    return ModelControl("none", (), open_repositories([str(root)], None), unused, unused, 1.0, lambda: None)


def test_an_empty_repository_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    control(tmp_path).look()
    assert f"there is no model in {tmp_path}; expected files such as NAME/1/model.onnx." in caplog.messages


def test_what_only_looks_like_a_model_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in ("good/1/model.onnx", "flat/model.onnx"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    with caplog.at_level(logging.WARNING):
        control(tmp_path).look()
    assert [message.split(":")[0] for message in caplog.messages] == [f"{tmp_path / 'flat'} is no model"]
