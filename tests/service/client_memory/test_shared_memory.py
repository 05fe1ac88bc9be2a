"""Regions of real POSIX shared memory: nothing outside them is touched, and what clients do to them kills nobody."""

import os
import uuid
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory as Object
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginehouse.errors import AlreadyExists, InvalidInput, NotFound, NotSupported
from service.client_memory import shared_memory
from service.client_memory.shared_memory import DIRECTORY, SharedMemory

SIZE = 64


class Client:
    """A process that made a shared memory object."""

    def __init__(self) -> None:
        self._object = Object(create=True, size=SIZE)
        self.name = self._object.name
        self.close, self.unlink = self._object.close, self._object.unlink
        self.buf[:SIZE] = bytes(range(SIZE))

    @property
    def buf(self) -> memoryview:
        assert self._object.buf is not None
        return self._object.buf


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.close()
    made.unlink()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory(is_allowed=True)
    yield made
    made.close()


def shrink(client: Client, size: int) -> None:
    os.truncate(DIRECTORY / client.name, size)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_region_is_read_and_written_where_it_lies(memory: SharedMemory, client: Client) -> None:
    memory.register_system("r", f"/{client.name}", 10, 20)
    assert bytes(memory.view("r", 0, 20)) == bytes(range(10, 30))
    assert bytes(memory.view("r", 5, 3)) == b"\x0f\x10\x11"
    memory.write("r", 18, 2, b"ab")
    assert bytes(client.buf[:SIZE]) == bytes(range(28)) + b"ab" + bytes(range(30, SIZE))
    memory.write("r", 0, 20, b"x")
    assert bytes(client.buf[9:12]) == b"\x09x\x0b"


def test_what_was_read_does_not_change_when_the_client_writes_on(memory: SharedMemory, client: Client) -> None:
    memory.register_system("r", client.name, 0, SIZE)
    seen = memory.view("r", 0, 4)
    client.buf[0] = 99
    assert bytes(seen) == b"\x00\x01\x02\x03"
    assert bytes(memory.view("r", 0, 1)) == b"c"
    with pytest.raises(TypeError):
        seen[0] = 1


def test_regions_are_told_and_forgotten(memory: SharedMemory, client: Client) -> None:
    before = open_files()
    for name in ("a", "b", "c"):
        memory.register_system(name, client.name, 0, 8)
    assert [region.name for region in memory.system_regions()] == ["a", "b", "c"]
    assert [region.name for region in memory.system_regions("b")] == ["b"]
    memory.unregister_system("b")
    memory.unregister_system("b")
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'b'"):
        memory.system_regions("b")
    memory.unregister_cuda()
    assert len(memory.system_regions()) == 2
    memory.unregister_system()
    assert not memory.system_regions()
    assert open_files() == before
    with pytest.raises(NotFound, match="Unable to find CUDA shared memory region: 'a'"):
        memory.cuda_regions("a")
    with pytest.raises(InvalidInput, match="Unable to find shared memory region: 'a'"):
        memory.view("a", 0, 1)


def test_a_name_is_taken_once(memory: SharedMemory, client: Client) -> None:
    memory.register_system("r", client.name, 0, 8)
    with pytest.raises(AlreadyExists, match="shared memory region 'r' already in manager"):
        memory.register_system("r", client.name, 0, 8)


@pytest.mark.parametrize(
    ("offset", "byte_size"), [(0, SIZE + 1), (1, SIZE), (SIZE, 1), (-1, 4), (0, 0), (0, -1), (2**63, 1), (0, 2**64)]
)
def test_a_part_that_is_not_there_cannot_be_registered(
    memory: SharedMemory, client: Client, offset: int, byte_size: int
) -> None:
    before = open_files()
    with pytest.raises(InvalidInput, match="failed to register shared memory region 'r'"):
        memory.register_system("r", client.name, offset, byte_size)
    assert not memory.system_regions()
    assert open_files() == before


@pytest.mark.parametrize(
    "key",
    ["", "/", "/nobody-has-this", "../etc/passwd", "/a/b", "..", ".", "\0", "n" * 300, "\ud800", "/enginehouse-x"],
)
def test_a_key_that_is_none_cannot_be_registered(memory: SharedMemory, key: str) -> None:
    with pytest.raises(InvalidInput):
        memory.register_system("r", key, 0, 8)


def test_only_regular_objects_are_opened(memory: SharedMemory) -> None:
    names = [f"test-{uuid.uuid4().hex}" for _ in range(3)]
    pipe, folder, link = (DIRECTORY / name for name in names)
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to("/etc/passwd")
    try:
        for name in names:
            with pytest.raises(InvalidInput):
                memory.register_system("r", name, 0, 1)
    finally:
        pipe.unlink()
        folder.rmdir()
        link.unlink()


@pytest.mark.parametrize("name", ["", "n" * 256])
def test_a_name_that_is_none_cannot_be_registered(memory: SharedMemory, client: Client, name: str) -> None:
    with pytest.raises(InvalidInput, match="a region's name"):
        memory.register_system(name, client.name, 0, 8)


def test_off_means_that_nothing_is_registered(client: Client) -> None:
    memory = SharedMemory(is_allowed=False)
    with pytest.raises(NotSupported, match="--allow-client-shm true"):
        memory.register_system("r", client.name, 0, 8)
    with pytest.raises(NotSupported, match="--allow-client-shm true"):
        memory.register_cuda("r", bytes(64), 0, 8)
    assert not memory.has_cuda
    memory.unregister_system()
    memory.unregister_cuda()


def test_regions_have_a_limit(memory: SharedMemory, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MAX_REGIONS", 2)
    for name in "ab":
        memory.register_system(name, client.name, 0, 8)
    with pytest.raises(InvalidInput, match="2 shared memory regions are registered"):
        memory.register_system("c", client.name, 0, 8)


def test_a_tensor_has_a_limit(memory: SharedMemory, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "LARGEST_TENSOR_BYTES", 8)
    memory.register_system("r", client.name, 0, SIZE)
    assert len(memory.view("r", 0, 8)) == 8
    with pytest.raises(InvalidInput, match="9 bytes of region 'r' are too many"):
        memory.view("r", 0, 9)


def test_an_object_that_shrank_is_an_error_and_no_signal(memory: SharedMemory, client: Client) -> None:
    memory.register_system("r", client.name, 0, SIZE)
    shrink(client, 8)
    assert bytes(memory.view("r", 0, 8)) == bytes(range(8))
    with pytest.raises(InvalidInput, match="has shrunk to 8 bytes"):
        memory.view("r", 0, 9)
    with pytest.raises(InvalidInput, match="has shrunk to 8 bytes"):
        memory.check("r", 60, 4)
    with pytest.raises(InvalidInput, match="has shrunk to 8 bytes"):
        memory.write("r", 4, 8, b"12345678")
    assert (DIRECTORY / client.name).stat().st_size == 8


def test_an_object_that_shrinks_between_check_and_read_is_an_error(memory: SharedMemory, client: Client) -> None:
    memory.register_system("r", client.name, 0, SIZE)
    (region,) = memory.system_regions("r")
    region.check(0, SIZE)
    shrink(client, 8)
    with pytest.raises(InvalidInput, match="shrank while it was read"):
        region.read(0, SIZE)


def test_an_object_that_is_unlinked_stays_usable(memory: SharedMemory) -> None:
    client = Client()
    memory.register_system("r", client.name, 0, SIZE)
    client.unlink()
    client.buf[3] = 7
    assert bytes(memory.view("r", 3, 1)) == b"\x07"
    client.close()
    memory.write("r", 0, 2, b"ab")
    assert bytes(memory.view("r", 0, 2)) == b"ab"


offsets = st.integers(-3, SIZE + 3) | st.sampled_from([2**63, -(2**63), 2**64])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 40), size=st.integers(1, 24), offset=offsets, byte_size=offsets, data=st.binary(max_size=80)
)
def test_nothing_outside_a_region_is_read_or_written(
    client: Client, start: int, size: int, offset: int, byte_size: int, data: bytes
) -> None:
    original = bytes(range(SIZE))
    client.buf[:SIZE] = original
    memory = SharedMemory(is_allowed=True)
    memory.register_system("r", client.name, start, size)
    is_inside = 0 <= offset < size and 0 <= byte_size <= size - offset
    try:
        assert bytes(memory.view("r", offset, byte_size)) == original[start + offset :][:byte_size]
        assert is_inside
    except InvalidInput:
        assert not is_inside
    try:
        memory.write("r", offset, byte_size, data)
        assert is_inside
        assert len(data) <= byte_size
    except InvalidInput:
        assert bytes(client.buf[:SIZE]) == original
    after = bytes(client.buf[:SIZE])
    assert after[:start] == original[:start]
    assert after[start + size :] == original[start + size :]
    memory.close()
