"""Models whose names need care on their way through an address, a label or a file system."""

import json
import urllib.request
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import save_model

NAMES = [
    "stats",
    "ready",
    "a b",
    "50%",
    "a+b&c=d?e#f",
    "Größe",
    "模型",
    'quo"te',
    "back\\slash",
    "v1.2-x_y",
    "1",
    "%2e%2e",
]


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("names")
    for name in NAMES:
        save_model(repository, name, make_identity_model())
    with start_service(repository, "--model-control-mode", "explicit", "--load-model", "*") as running:
        yield running


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(service: RunningService, library: ModuleType) -> Iterator[Any]:
    port = service.http_port if library is triton_http else service.grpc_port
    with library.InferenceServerClient(f"127.0.0.1:{port}") as opened:
        yield opened


def field(message: Any, name: str) -> Any:
    return message[name] if isinstance(message, dict) else getattr(message, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_any_name_is_asked_described_reloaded_and_unloaded(
    client: Any, library: ModuleType, name: str
) -> None:
    client.load_model(name)
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, "1")
    row = library.InferInput("INPUT0", [1, 3], "FP32")
    row.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
    for version in ("", "1"):
        assert client.infer(name, [row], version).as_numpy("OUTPUT0").tolist() == [[1, 2, 3]]
    assert field(client.get_model_metadata(name, "1"), "name") == name
    config = client.get_model_config(name)
    assert field(config if library is triton_http else config.config, "name") == name
    (counted,) = field(client.get_inference_statistics(name, "1"), "model_stats")
    assert field(counted, "name") == name
    assert int(field(counted, "inference_count")) >= 2
    client.unload_model(name)
    assert not client.is_model_ready(name)
    client.load_model(name)


def test_the_statistics_of_all_models_win_over_a_model_of_that_name(service: RunningService) -> None:
    told = json.load(urllib.request.urlopen(f"{service.url}/v2/models/stats"))
    assert {row["name"] for row in told["model_stats"]} == set(NAMES)


def test_metrics_name_every_model_and_stay_readable(service: RunningService) -> None:
    text = urllib.request.urlopen(f"{service.url}/metrics").read().decode()
    for name in NAMES:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        assert f'nv_inference_count{{model="{escaped}",version="1"}}' in text


@pytest.mark.parametrize("name", ["..", "../names", "a/b", ".", "n" * 5000, "a\0b"])
def test_a_name_that_leads_elsewhere_is_nobodys(service: RunningService, name: str) -> None:
    address = f"{service.url}/v2/repository/models/{quote(name, safe='')}/load"
    with pytest.raises(urllib.request.HTTPError) as caught:
        urllib.request.urlopen(address, b"{}")
    with caught.value as refusal:
        assert refusal.code in (400, 404)
        assert isinstance(json.load(refusal)["error"], str)
