"""Every element type of the table, through an identity model, with the real clients unchanged."""

import asyncio
import json
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio

from enginehouse.dtype import DTYPES, Array
from tests.conftest import RunningService

ALL = sorted(DTYPES)


def values(name: str) -> Array:
    """Edges of the type, as the clients want to be given them."""
    if name == "BYTES":
        return np.array([["", "é→𝄞", "a\x00b"], ["x" * 5000, "1", " "]], dtype=object)
    if name == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if name == "BF16":
        return np.array([[0.5, -2.0, 1.0], [256.0, 3.0, -0.0]], dtype=DTYPES[name].numpy)
    kind = DTYPES[name].numpy
    if kind.kind == "f":
        limits = np.finfo(kind)
        return np.array([[limits.max, limits.min, 0], [limits.tiny, -1.5, 2]], dtype=kind)
    edges = np.iinfo(kind)
    return np.array([[edges.max, edges.min, 0], [1, 2, 3]], dtype=kind)


def expected(name: str) -> list[object]:
    array = values(name)
    return [item.encode() for item in array.ravel()] if name == "BYTES" else list(array.ravel().tolist())


def found(array: Array | None) -> list[object]:
    assert array is not None
    return list(array.ravel().tolist())


@pytest.mark.parametrize("name", ALL)
def test_http_client_gets_back_what_it_sent_in_binary(service: RunningService, name: str) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        tensor = triton_http.InferInput("INPUT0", [2, 3], name)
        tensor.set_data_from_numpy(values(name), binary_data=True)
        assert found(client.infer(f"identity_{name.lower()}", [tensor]).as_numpy("OUTPUT0")) == expected(name)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("FP16", "BF16")])
def test_http_client_gets_back_what_it_sent_in_json(service: RunningService, name: str) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        tensor = triton_http.InferInput("INPUT0", [2, 3], name)
        tensor.set_data_from_numpy(values(name), binary_data=False)
        output = triton_http.InferRequestedOutput("OUTPUT0", binary_data=False)
        answer = client.infer(f"identity_{name.lower()}", [tensor], outputs=[output]).as_numpy("OUTPUT0")
        wanted = [item.decode() for item in expected(name)] if name == "BYTES" else expected(name)  # type: ignore[attr-defined]
        assert found(answer) == wanted


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_precision_in_json_is_refused_both_ways(service: RunningService, name: str) -> None:
    body = {"inputs": [{"name": "INPUT0", "datatype": name, "shape": [1, 3], "data": [1, 2, 3]}]}
    request = urllib.request.Request(
        f"{service.url}/v2/models/identity_{name.lower()}/infer", json.dumps(body).encode()
    )
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        urllib.request.urlopen(request)
    assert "via JSON is not supported" in json.load(refusal.value)["error"]
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        tensor = triton_http.InferInput("INPUT0", [2, 3], name)
        tensor.set_data_from_numpy(values(name), binary_data=True)
        output = triton_http.InferRequestedOutput("OUTPUT0", binary_data=False)
        with pytest.raises(triton_http.InferenceServerException, match="via JSON is not supported"):
            client.infer(f"identity_{name.lower()}", [tensor], outputs=[output])


@pytest.mark.parametrize("name", ALL)
def test_grpc_client_gets_back_what_it_sent(service: RunningService, name: str) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        tensor = triton_grpc.InferInput("INPUT0", [2, 3], name)
        tensor.set_data_from_numpy(values(name))
        assert found(client.infer(f"identity_{name.lower()}", [tensor]).as_numpy("OUTPUT0")) == expected(name)


async def test_asyncio_clients_get_back_what_they_sent(service: RunningService) -> None:
    async def over_http(name: str) -> list[object]:
        async with triton_http_aio.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
            tensor = triton_http_aio.InferInput("INPUT0", [2, 3], name)
            tensor.set_data_from_numpy(values(name))
            return found((await client.infer(f"identity_{name.lower()}", [tensor])).as_numpy("OUTPUT0"))

    async def over_grpc(name: str) -> list[object]:
        async with triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
            tensor = triton_grpc_aio.InferInput("INPUT0", [2, 3], name)
            tensor.set_data_from_numpy(values(name))
            return found((await client.infer(f"identity_{name.lower()}", [tensor])).as_numpy("OUTPUT0"))

    wanted = [expected(name) for name in ALL]
    assert await asyncio.gather(*(over_http(name) for name in ALL)) == wanted
    assert await asyncio.gather(*(over_grpc(name) for name in ALL)) == wanted
