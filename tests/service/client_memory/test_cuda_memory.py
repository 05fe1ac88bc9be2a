"""Memory of a GPU, over a fake of the driver's library: no GPU was touched by these tests."""

import ctypes
from typing import Any

import pytest

from enginehouse.cuda_driver import CudaDriver
from enginehouse.errors import AlreadyExists, InvalidInput, NotSupported
from service.client_memory.cuda_memory import CudaMemory
from service.client_memory.shared_memory import SharedMemory
from tests.tensorrt_fakes import FakeCuda

HANDLE = bytes(range(64))
SIZE = 32


class SharingCuda(FakeCuda):
    """A driver that knows one handle, for memory of another process."""

    def __init__(self) -> None:
        super().__init__(devices=2)
        self.shared = ctypes.create_string_buffer(bytes(range(SIZE)), SIZE)
        self.open = 0

    def cuIpcOpenMemHandle_v2(self, found: Any, handle: Any, flags: Any) -> int:  # noqa: N802 - the driver's name
        if bytes(handle.reserved) != HANDLE or flags.value != 1:
            return 1
        self.open += 1
        return self._set(found, ctypes.addressof(self.shared))

    def cuIpcCloseMemHandle(self, address: Any) -> int:  # noqa: N802
        assert address.value == ctypes.addressof(self.shared)
        self.open -= 1
        return 0

    def cuMemGetAddressRange_v2(self, base: Any, size: Any, address: Any) -> int:  # noqa: N802
        base._obj.value = address.value
        size._obj.value = SIZE
        return 0


@pytest.fixture
def cuda() -> SharingCuda:
    return SharingCuda()


@pytest.fixture
def memory(cuda: SharingCuda) -> SharedMemory:
    return SharedMemory(True, CudaMemory(lambda _, ordinal: CudaDriver(cuda, ordinal)))


def test_a_region_is_read_and_written_where_it_lies(memory: SharedMemory, cuda: SharingCuda) -> None:
    memory.register_cuda("g", HANDLE, 0, 24)
    assert bytes(memory.view("g", 4, 6)) == bytes(range(4, 10))
    memory.check("g", 0, 24)
    memory.write("g", 22, 2, b"ab")
    assert cuda.shared.raw == bytes(range(22)) + b"ab" + bytes(range(24, SIZE))
    for offset, byte_size in ((24, 1), (0, 25), (-1, 2)):
        with pytest.raises(InvalidInput, match="Invalid offset"):
            memory.view("g", offset, byte_size)


def test_regions_are_told_and_given_back(memory: SharedMemory, cuda: SharingCuda) -> None:
    assert memory.has_cuda
    memory.register_cuda("g", HANDLE, 1, 24)
    (region,) = memory.cuda_regions()
    assert (region.name, region.device_id, region.byte_size) == ("g", 1, 24)
    assert not memory.system_regions()
    memory.unregister_system()
    assert cuda.open == 1
    memory.unregister_cuda("g")
    assert cuda.open == 0
    memory.register_cuda("g", HANDLE, 0, 24)
    memory.close()
    assert cuda.open == 0
    assert cuda.closed.count("context") == 2


def test_system_and_gpu_regions_share_their_names(memory: SharedMemory) -> None:
    memory.register_cuda("g", HANDLE, 0, 24)
    with pytest.raises(AlreadyExists):
        memory.register_system("g", "/whatever", 0, 8)


@pytest.mark.parametrize(
    ("handle", "device_id", "byte_size", "reason"),
    [
        (b"", 0, 8, "the handle has 0 bytes; 64 are expected"),
        (HANDLE + b"x", 0, 8, "the handle has 65 bytes"),
        (HANDLE[::-1], 0, 8, "cuIpcOpenMemHandle_v2 failed"),
        (HANDLE, -1, 8, "there is no GPU -1"),
        (HANDLE, 0, SIZE + 1, "The handle stands for 32 bytes, 33 were given"),
        (HANDLE, 0, 0, "0 bytes make no sense"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_stays_open(
    memory: SharedMemory, cuda: SharingCuda, handle: bytes, device_id: int, byte_size: int, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        memory.register_cuda("g", handle, device_id, byte_size)
    assert cuda.open == 0
    assert not memory.cuda_regions()


def test_a_gpu_that_is_not_there_is_refused(memory: SharedMemory) -> None:
    with pytest.raises(NotSupported, match="GPU 2 was asked for, and this machine has 2"):
        memory.register_cuda("g", HANDLE, 2, 8)


def test_a_machine_without_a_gpu_says_so_and_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.cuda_driver._LIBRARY", "libcuda-that-is-not-there.so.1")
    memory = SharedMemory(is_allowed=True)
    assert not memory.has_cuda
    with pytest.raises(NotSupported, match=r"CUDA shared memory \(the gpu extra, with NVIDIA's driver\) needs"):
        memory.register_cuda("g", HANDLE, 0, 8)
