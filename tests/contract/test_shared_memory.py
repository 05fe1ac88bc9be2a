"""Shared memory with the field's own client, over gRPC; and a client that takes its memory away under load."""

import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService

SIZE = 64


@pytest.fixture(scope="module")
def service(start_service: StartService, contract_repository: Path) -> Iterator[RunningService]:
    with start_service(contract_repository, "--allow-client-shm", "true") as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as opened:
        opened.unregister_system_shared_memory()
        opened.unregister_cuda_shared_memory()
        yield opened
        opened.unregister_system_shared_memory()


@pytest.fixture
def region() -> Iterator[Any]:
    made = shm.create_shared_memory_region("data", f"/enginetest-{os.getpid()}", 4 * SIZE, create_only=True)
    yield made
    shm.destroy_shared_memory_region(made)


def key_of(region: Any) -> str:
    return str(region._shm_key)


def tensors(offset: int = 0) -> list[Any]:
    """Both inputs, one behind the other."""
    made = []
    for number in (0, 1):
        tensor = triton_grpc.InferInput(f"INPUT{number}", [1, 16], "INT32")
        tensor.set_shared_memory("data", SIZE, offset + number * SIZE)
        made.append(tensor)
    return made


def wanted(size: int = SIZE) -> list[Any]:
    """Both outputs, behind the inputs."""
    made = []
    for number in (0, 1):
        output = triton_grpc.InferRequestedOutput(f"OUTPUT{number}")
        output.set_shared_memory("data", size, (2 + number) * SIZE)
        made.append(output)
    return made


def fill(region: Any) -> tuple[Any, Any]:
    first, second = np.arange(16, dtype=np.int32), np.full(16, 3, np.int32)
    shm.set_shared_memory_region(region, [first, second])
    return first, second


def test_inputs_come_from_and_outputs_go_to_the_clients_memory(client: Any, region: Any) -> None:
    client.register_system_shared_memory("data", key_of(region), 4 * SIZE)
    first, second = fill(region)
    answer = client.infer("simple", tensors(), outputs=wanted())
    output = answer.get_output("OUTPUT0")
    assert (output.datatype, list(output.shape)) == ("INT32", [1, 16])
    assert list(answer.get_response().raw_output_contents) == [b"", b""]
    for number, expected in enumerate((first + second, first - second)):
        written = shm.get_contents_as_numpy(region, np.int32, [1, 16], (2 + number) * SIZE)
        np.testing.assert_array_equal(written, expected[None])


def test_inputs_may_be_in_memory_and_outputs_in_the_message(client: Any, region: Any) -> None:
    client.register_system_shared_memory("data", key_of(region), 4 * SIZE)
    first, second = fill(region)
    sent = triton_grpc.InferInput("INPUT1", [1, 16], "INT32")
    sent.set_data_from_numpy(second[None])
    for inputs in ([tensors()[0], sent], [sent, tensors()[0]]):
        answer = client.infer("simple", inputs)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), (first + second)[None])


def test_a_stream_uses_memory_too(client: Any, region: Any) -> None:
    client.register_system_shared_memory("data", key_of(region), 4 * SIZE)
    first, second = fill(region)
    answered = threading.Event()
    client.start_stream(lambda **_: answered.set())
    client.async_stream_infer("simple", tensors(), outputs=wanted())
    assert answered.wait(20)
    client.stop_stream()
    written = shm.get_contents_as_numpy(region, np.int32, [1, 16], 2 * SIZE)
    np.testing.assert_array_equal(written, (first + second)[None])


def test_text_comes_from_memory(client: Any, region: Any) -> None:
    client.register_system_shared_memory("data", key_of(region), 4 * SIZE)
    text = np.array([["one", "", "é"]], dtype=object)
    packed = triton_grpc.InferInput("INPUT0", [1, 3], "BYTES")
    packed.set_data_from_numpy(text)
    data = bytes(packed._get_content())
    region._mpsm_handle.buf[: len(data)] = data
    tensor = triton_grpc.InferInput("INPUT0", [1, 3], "BYTES")
    tensor.set_shared_memory("data", len(data))
    answer = client.infer("identity_bytes", [tensor]).as_numpy("OUTPUT0")
    assert [item.decode() for item in answer[0]] == ["one", "", "é"]


def test_status_tells_what_is_registered(client: Any, region: Any) -> None:
    for name, size, offset in (("a", 16, 0), ("b", 8, 4)):
        client.register_system_shared_memory(name, key_of(region), size, offset=offset)
    found = client.get_system_shared_memory_status().regions
    assert {name: (entry.key, entry.offset, entry.byte_size) for name, entry in found.items()} == {
        "a": (key_of(region), 0, 16),
        "b": (key_of(region), 4, 8),
    }
    client.unregister_system_shared_memory("a")
    assert set(client.get_system_shared_memory_status().regions) == {"b"}
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'a'") as refusal:
        client.get_system_shared_memory_status("a")
    assert refusal.value.status() == "StatusCode.NOT_FOUND"
    assert not client.get_cuda_shared_memory_status().regions
    assert "system_shared_memory" in client.get_server_metadata().extensions


def test_what_does_not_fit_is_refused(client: Any, region: Any) -> None:
    key = key_of(region)
    for arguments, status in (
        (("data", key, 4 * SIZE + 4096), "INVALID_ARGUMENT"),
        (("data", "/nobody-has-this", 8), "INVALID_ARGUMENT"),
        (("data", "/../etc/passwd", 8), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(InferenceServerException) as refusal:
            client.register_system_shared_memory(*arguments)
        assert refusal.value.status() == f"StatusCode.{status}"
    client.register_system_shared_memory("data", key, 4 * SIZE)
    with pytest.raises(InferenceServerException, match="already in manager") as refusal:
        client.register_system_shared_memory("data", key, 4 * SIZE)
    assert refusal.value.status() == "StatusCode.ALREADY_EXISTS"
    for inputs, outputs, reason in (
        (tensors(3 * SIZE), [], "Invalid offset for shared memory region: 'data'"),
        (tensors(2 * SIZE + 4), [], r"Invalid offset \+ byte size"),
        (tensors(), wanted(SIZE - 4), "should be at least 64 bytes"),
        (tensors(), wanted(2 * SIZE), r"Invalid offset \+ byte size"),
    ):
        with pytest.raises(InferenceServerException, match=reason) as refusal:
            client.infer("simple", inputs, outputs=outputs)
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_cuda_memory_is_refused_by_name_where_no_gpu_is(client: Any) -> None:
    if "cuda_shared_memory" in client.get_server_metadata().extensions:
        pytest.skip("this machine has a GPU")
    with pytest.raises(InferenceServerException, match="CUDA shared memory") as refusal:
        client.register_cuda_shared_memory("g", b64encode(bytes(64)), 0, 8)
    assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"


def test_off_by_default_by_name(start_service: StartService, tmp_path: Path) -> None:
    with (
        start_service(tmp_path) as running,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as opened,
    ):
        with pytest.raises(InferenceServerException, match="--allow-client-shm true") as refusal:
            opened.register_system_shared_memory("a", "/b", 8)
        assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"
        opened.unregister_system_shared_memory()
        assert "system_shared_memory" not in opened.get_server_metadata().extensions


def outcome(client: Any) -> str:
    try:
        client.infer("simple", tensors(), outputs=wanted())
    except InferenceServerException as problem:
        is_told = problem.status() == "StatusCode.INVALID_ARGUMENT" and "shr" in problem.message()
        return "refused" if is_told else str(problem)
    return "answered"


def test_memory_that_shrinks_under_load_never_ends_the_server(
    service: RunningService, client: Any, region: Any
) -> None:
    """The file is cut and grown as fast as it can be while requests read and write it: a mapping would die of it."""
    client.register_system_shared_memory("data", key_of(region), 4 * SIZE)
    fill(region)
    path = Path("/dev/shm") / key_of(region).lstrip("/")
    done = threading.Event()

    def cut() -> None:
        while not done.is_set():
            os.truncate(path, 8)
            os.truncate(path, 4 * SIZE)

    cutting = threading.Thread(target=cut)
    cutting.start()
    outcomes = set()
    try:
        for _ in range(300):
            outcomes.add(outcome(client))
    finally:
        done.set()
        cutting.join()
    assert "refused" in outcomes
    assert outcomes <= {"answered", "refused"}
    assert service.process.poll() is None
    os.truncate(path, 4 * SIZE)
    first, second = fill(region)
    answer = client.infer("simple", tensors())
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), (first + second)[None])
