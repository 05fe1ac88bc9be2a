"""What a load asks for: a model as the repository has it, or with a configuration and files of the client's own."""

import base64
import binascii
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.model_config import config_from_json, text_from_config
from enginehouse.proto.grpc_service_pb2 import ModelRepositoryParameter
from enginehouse.repository import CONFIG_FILE

FILE_PREFIX = "file:"
UNLOAD_DEPENDENTS = "unload_dependents"
_CONFIG = "config"
_MAX_NAME_LENGTH = 200


@dataclass(slots=True, frozen=True)
class LoadOrder:
    """One load of one model.

    Attributes:
        config_json: replaces the repository's configuration; empty for none.
        files: by their path inside the model; with any, none of the repository's files are used.
        is_required: the server is not ready until the model answers.
        may_stay: a model that answers already is what is wanted.
    """

    name: str
    config_json: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    is_required: bool = False
    may_stay: bool = False


def load_parameters_from_json(parameters: Any) -> tuple[str, dict[str, bytes]]:
    """Read the configuration and the files of a load request over REST, where a file's bytes are base64.

    Raises:
        InvalidInput: a parameter of another type than it should have.
        NotSupported: one that would not be honoured.
    """
    if not isinstance(parameters, dict):
        raise InvalidInput("'parameters' of a load request must be an object.")
    for key, value in parameters.items():
        if not isinstance(value, str):
            raise InvalidInput(f"load parameter '{key[:80]}' must be a string.")
    files = {key: _bytes_from_base64(key, value) for key, value in parameters.items() if _names_file(key)}
    return parameters.get(_CONFIG, ""), files


def load_parameters_from_message(
    parameters: Mapping[str, ModelRepositoryParameter],
) -> tuple[str, dict[str, bytes]]:
    """Read the configuration and the files of a load request over gRPC; raises as its REST twin does."""
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind != ("bytes_param" if _names_file(key) else "string_param"):
            raise InvalidInput(f"load parameter '{key[:80]}' is a {kind}; 'config' is text and a file is bytes.")
    config = parameters[_CONFIG].string_param if _CONFIG in parameters else ""
    return config, {key: value.bytes_param for key, value in parameters.items() if key != _CONFIG}


def order_from_parameters(name: str, config_json: str, files: Mapping[str, bytes]) -> LoadOrder:
    """Check what a client asks for, before anything is written.

    Args:
        name: of the model.
        config_json: replaces the repository's configuration; empty for none.
        files: by their path inside the model, with or without the prefix `file:`.

    Raises:
        InvalidInput: files without a configuration, or a path that leaves the model's directory.
    """
    by_path = {path.removeprefix(FILE_PREFIX): content for path, content in files.items()}
    if by_path and not config_json:
        raise InvalidInput(
            f"failed to load '{name[:100]}': 'file:' parameters were given without 'config'. With files of its own a "
            "model uses nothing from the repository, so send its configuration too."
        )
    if by_path and (len(name) > _MAX_NAME_LENGTH or "/" in name or not _is_inside(name)):
        raise InvalidInput(f"failed to load '{name[:100]}': that cannot be the name of a directory.")
    for path in by_path:
        if not _is_inside(path):
            raise InvalidInput(
                f"failed to load '{name}': '{FILE_PREFIX}{path[:100]}' is no path inside the model; "
                f"expected one like '{FILE_PREFIX}1/model.onnx'."
            )
    return LoadOrder(name, config_json, by_path)


def unload_dependents_from_json(parameters: Any) -> bool:
    """Read the one parameter of an unload request over REST; raises `InvalidInput` or `NotSupported`."""
    if not isinstance(parameters, dict):
        raise InvalidInput("'parameters' of an unload request must be an object.")
    _refuse_others(parameters)
    value = parameters.get(UNLOAD_DEPENDENTS, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"unload parameter '{UNLOAD_DEPENDENTS}' must be true or false.")
    return value


def unload_dependents_from_message(parameters: Mapping[str, ModelRepositoryParameter]) -> bool:
    """Read the one parameter of an unload request over gRPC; raises `InvalidInput` or `NotSupported`."""
    _refuse_others(parameters)
    if UNLOAD_DEPENDENTS not in parameters:
        return False
    value = parameters[UNLOAD_DEPENDENTS]
    if value.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidInput(f"unload parameter '{UNLOAD_DEPENDENTS}' must be true or false.")
    return value.bool_param


def write_stand_in(order: LoadOrder) -> Path:
    """Lay the files of an order out as a repository of one model, in a temporary directory.

    Raises:
        InvalidInput: the configuration cannot be read, or two files need the same path.
    """
    config = config_from_json(order.config_json, order.name)
    root = Path(tempfile.mkdtemp(prefix="enginehouse-load-"))
    try:
        model = root / order.name
        model.mkdir()
        for path, content in order.files.items():
            file = model / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (model / CONFIG_FILE).write_text(text_from_config(config))
    except OSError as problem:
        shutil.rmtree(root, ignore_errors=True)
        raise InvalidInput(
            f"failed to load '{order.name}': a file cannot be written: {problem.strerror or problem}."
        ) from problem
    return root


def remove_stand_in(root: Path | None) -> None:
    """Forget files that nothing serves any more."""
    if root is not None:
        shutil.rmtree(root, ignore_errors=True)


def _names_file(key: str) -> bool:
    """Whether a load parameter is a file; raises `NotSupported` if it is not the configuration either."""
    if key.startswith(FILE_PREFIX):
        return True
    if key != _CONFIG:
        raise NotSupported(f"load parameter '{key[:80]}' is not supported; '{_CONFIG}' and '{FILE_PREFIX}<path>' are.")
    return False


def _bytes_from_base64(key: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise InvalidInput(f"load parameter '{key[:80]}' is not base64: {problem}.") from problem


def _refuse_others(parameters: Mapping[str, Any]) -> None:
    for key in parameters:
        if key != UNLOAD_DEPENDENTS:
            raise NotSupported(f"unload parameter '{key[:80]}' is not supported; '{UNLOAD_DEPENDENTS}' is.")


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and "\0" not in path and not any(p.startswith(".") for p in parts)
