"""Real clients load models with a configuration and files of their own, over both transports."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model
from tests.contract.test_ensemble import make_repository
from tests.service.conftest import make_scale_model

CONFIG = json.dumps({"max_batch_size": "4"})


@pytest.fixture(scope="module")
def explicit(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("overrides") / "models"
    save_model(repository, "m", make_scale_model(3), version=3)
    with start_service(repository, "--model-control-mode", "explicit") as running:
        yield running


@pytest.fixture(params=[triton_http, triton_grpc])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(explicit: RunningService, library: Any) -> Iterator[Any]:
    port = explicit.http_port if library is triton_http else explicit.grpc_port
    with library.InferenceServerClient(f"127.0.0.1:{port}") as made:
        yield made


def factor(client: Any, library: Any, name: str = "m") -> tuple[float, str]:
    """What the model multiplies by, and the version that said so."""
    x = library.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.ones((1, 2), np.float32))
    answer = client.infer(name, [x])
    response = answer.get_response()
    version = response["model_version"] if isinstance(response, dict) else response.model_version
    return float(answer.as_numpy("y")[0, 0]), version


def versions(client: Any) -> dict[str, str]:
    """The state of each version of the model `m`."""
    index = client.get_model_repository_index()
    rows = (
        index
        if isinstance(index, list)
        else [{"name": row.name, "version": row.version, "state": row.state} for row in index.models]
    )
    return {row["version"]: row["state"] for row in rows if row["name"] == "m"}


def test_files_replace_the_model_in_the_repository_until_it_is_loaded_without_them(client: Any, library: Any) -> None:
    client.load_model("m")
    assert factor(client, library) == (3, "3")
    file = {"file:1/model.onnx": make_scale_model(5).SerializeToString()}
    with pytest.raises(InferenceServerException, match=r"failed to load 'm'.*without 'config'") as refusal:
        client.load_model("m", files=file)
    assert refusal.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert factor(client, library) == (3, "3")
    client.load_model("m", config=CONFIG, files=file)
    assert factor(client, library) == (5, "1")
    assert versions(client) == {"1": "READY", "3": "UNAVAILABLE"}
    client.load_model("m")
    assert factor(client, library) == (3, "3")
    assert versions(client) == {"1": "UNAVAILABLE", "3": "READY"}


def test_a_model_that_no_repository_holds_serves_from_files_alone(client: Any, library: Any) -> None:
    name = f"own_{library.__name__[-4:]}"
    client.load_model(name, config=CONFIG, files={"file:2/model.onnx": make_scale_model(7).SerializeToString()})
    assert factor(client, library, name) == (7, "2")
    client.unload_model(name)
    with pytest.raises(InferenceServerException, match="no version at ready state"):
        factor(client, library, name)
    with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
        client.load_model(name)


@pytest.mark.parametrize("path", ["file:../outside.onnx", "file:/etc/outside", "file:1/../../outside"])
def test_a_file_never_leaves_its_model(client: Any, library: Any, path: str, explicit: RunningService) -> None:
    client.load_model("m")
    with pytest.raises(InferenceServerException, match="is no path inside the model") as refusal:
        client.load_model("m", config=CONFIG, files={path: b"anything"})
    assert refusal.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert factor(client, library) == (3, "3")
    assert not Path("/etc/outside").exists()


def test_unload_takes_its_parameter(client: Any, library: Any) -> None:
    client.load_model("m")
    client.unload_model("m", unload_dependents=True)
    assert not client.is_model_ready("m")
    assert "model_repository(unload_dependents)" in str(client.get_server_metadata())


def test_what_was_loaded_for_an_ensemble_goes_with_it_on_request(start_service: StartService, tmp_path: Path) -> None:
    with (
        start_service(make_repository(tmp_path), "--model-control-mode", "explicit") as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        client.load_model("a_quadrupled")
        client.unload_model("a_quadrupled")
        assert client.is_model_ready("doubled")
        assert client.is_model_ready("simple")
        client.load_model("a_quadrupled")
        client.unload_model("a_quadrupled", unload_dependents=True)
        assert not client.is_model_ready("doubled")
        assert not client.is_model_ready("simple")
