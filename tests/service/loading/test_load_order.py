"""What a client may ask a load to bring along, and what is refused before anything is written."""

import base64
from typing import Any

import pytest

from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.model_config import read_config
from enginehouse.proto.grpc_service_pb2 import ModelRepositoryParameter
from enginehouse.repository import Repository
from service.loading.load_order import (
    load_parameters_from_json,
    load_parameters_from_message,
    order_from_parameters,
    remove_stand_in,
    unload_dependents_from_json,
    unload_dependents_from_message,
    write_stand_in,
)


def test_files_come_as_base64_over_rest_and_as_bytes_over_grpc() -> None:
    expected = ("{}", {"file:1/model.onnx": b"\0\1"})
    encoded = base64.b64encode(b"\0\1").decode()
    assert load_parameters_from_json({"config": "{}", "file:1/model.onnx": encoded}) == expected
    message = {
        "config": ModelRepositoryParameter(string_param="{}"),
        "file:1/model.onnx": ModelRepositoryParameter(bytes_param=b"\0\1"),
    }
    assert load_parameters_from_message(message) == expected
    assert load_parameters_from_json({}) == load_parameters_from_message({}) == ("", {})


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ([], InvalidInput),
        ({"config": 1}, InvalidInput),
        ({"config": "{}", "file:1/a": 7}, InvalidInput),
        ({"config": "{}", "file:1/a": "no base64!"}, InvalidInput),
        ({"other": "x"}, NotSupported),
    ],
)
def test_other_parameters_of_a_load_over_rest_are_refused(parameters: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="load"):
        load_parameters_from_json(parameters)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("config", ModelRepositoryParameter(int64_param=1), InvalidInput),
        ("file:1/a", ModelRepositoryParameter(string_param="text"), InvalidInput),
        ("other", ModelRepositoryParameter(string_param="x"), NotSupported),
    ],
)
def test_other_parameters_of_a_load_over_grpc_are_refused(
    key: str, value: ModelRepositoryParameter, error: type[Exception]
) -> None:
    with pytest.raises(error, match="load parameter"):
        load_parameters_from_message({key: value})


def test_an_unload_takes_one_parameter_which_is_true_or_false() -> None:
    assert unload_dependents_from_json({"unload_dependents": True})
    assert not unload_dependents_from_json({})
    assert unload_dependents_from_message({"unload_dependents": ModelRepositoryParameter(bool_param=True)})
    assert not unload_dependents_from_message({})
    wrongs: tuple[Any, ...] = ({"unload_dependents": "yes"}, [])
    for wrong in wrongs:
        with pytest.raises(InvalidInput, match="unload"):
            unload_dependents_from_json(wrong)
    with pytest.raises(InvalidInput, match="true or false"):
        unload_dependents_from_message({"unload_dependents": ModelRepositoryParameter(string_param="yes")})
    with pytest.raises(NotSupported, match="'force'"):
        unload_dependents_from_json({"force": True})


def test_files_need_a_configuration() -> None:
    with pytest.raises(InvalidInput, match="failed to load 'm': 'file:' parameters were given without 'config'"):
        order_from_parameters("m", "", {"file:1/model.onnx": b""})


@pytest.mark.parametrize("path", ["../x", "/etc/x", "1/../../x", "", ".", "1/.hidden", "a\0b"])
def test_a_file_that_would_lie_outside_the_model_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="is no path inside the model"):
        order_from_parameters("m", "{}", {f"file:{path}": b""})


@pytest.mark.parametrize("name", ["..", "", "a/b", ".m", "n" * 300])
def test_files_need_a_name_that_can_be_a_directory(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a directory"):
        order_from_parameters(name, "{}", {"file:1/a": b""})


def test_a_stand_in_is_a_repository_of_one_model_until_it_is_removed() -> None:
    files = {"file:1/model.onnx": b"one", "file:3/deep/er.bin": b"three", "labels.txt": b"a"}
    root = write_stand_in(order_from_parameters("m", '{"max_batch_size": 7}', files))
    repository = Repository(root)
    assert repository.model_names() == ["m"]
    assert repository.versions("m") == [1, 3]
    assert (repository.version_directory("m", 3) / "deep" / "er.bin").read_bytes() == b"three"
    assert (root / "m" / "labels.txt").read_bytes() == b"a"
    assert read_config(root / "m").max_batch_size == 7
    remove_stand_in(root)
    assert not root.exists()
    remove_stand_in(None)


def test_files_that_need_the_same_path_are_refused_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    order = order_from_parameters("m", "{}", {"file:1/model.onnx": b"", "file:1/model.onnx/x": b""})
    with pytest.raises(InvalidInput, match="a file cannot be written"):
        write_stand_in(order)
    assert list(tmp_path.iterdir()) == []
