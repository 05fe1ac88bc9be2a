"""Memory of a GPU that clients registered by its IPC handle, through the driver that every machine with a GPU has."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from enginehouse.cuda_driver import IPC_HANDLE_BYTES, CudaDriver, open_driver
from enginehouse.errors import EngineFailed, InvalidInput, NotSupported

_PURPOSE = "CUDA shared memory (the gpu extra, with NVIDIA's driver)"


@dataclass(slots=True, frozen=True)
class CudaRegion:
    """Memory that another process allocated on a GPU; it stays as long as it is open here."""

    name: str
    device_id: int
    byte_size: int
    address: int
    driver: CudaDriver

    def check(self, offset: int, byte_size: int) -> None:
        """Memory of a GPU cannot shrink: the size was compared when it was registered."""

    def read(self, offset: int, byte_size: int) -> memoryview:
        """Copy bytes, counted from the start of the region, to host memory."""
        array = np.empty(byte_size, np.uint8)
        self.driver.activate()
        self.driver.copy_out(array, self.address + offset)
        self.driver.synchronize()
        return array.data.toreadonly()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy `data` into the region, from `offset` on; back when it is there."""
        self.driver.activate()
        self.driver.copy_in(self.address + offset, np.frombuffer(data, np.uint8))
        self.driver.synchronize()

    def close(self) -> None:
        self.driver.activate()
        self.driver.close_shared(self.address)


class CudaMemory:
    """Opens IPC handles on the GPUs of this machine; a GPU is touched only once it is asked for.

    Args:
        open_gpu: opens the driver for one GPU; raises `NotSupported` where there is none.
    """

    def __init__(self, open_gpu: Callable[[str, int], CudaDriver] = open_driver) -> None:
        self._open_gpu = open_gpu
        self._drivers: dict[int, CudaDriver] = {}

    @property
    def is_available(self) -> bool:
        """Whether the first GPU can be used."""
        try:
            self._driver(0)
        except NotSupported:
            return False
        return True

    def open(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> CudaRegion:
        """Open what a handle stands for.

        Raises:
            NotSupported: there is no such GPU here.
            InvalidInput: the driver does not know the handle, or it stands for fewer bytes.
        """
        if len(raw_handle) != IPC_HANDLE_BYTES:
            raise InvalidInput(
                f"failed to register shared memory region '{name}': the handle has {len(raw_handle)} bytes; "
                f"{IPC_HANDLE_BYTES} are expected."
            )
        if device_id < 0:
            raise InvalidInput(f"failed to register shared memory region '{name}': there is no GPU {device_id}.")
        driver = self._driver(device_id)
        driver.activate()
        try:
            address = driver.open_shared(raw_handle)
        except EngineFailed as problem:
            raise InvalidInput(f"failed to register shared memory region '{name}': {problem}") from problem
        found = driver.size_from(address)
        if byte_size > found:
            driver.close_shared(address)
            raise InvalidInput(
                f"failed to register shared memory region '{name}': invalid args. "
                f"The handle stands for {found} bytes, {byte_size} were given."
            )
        return CudaRegion(name, device_id, byte_size, address, driver)

    def close(self) -> None:
        """Let go of the GPUs."""
        for driver in self._drivers.values():
            driver.close()
        self._drivers.clear()

    def _driver(self, device_id: int) -> CudaDriver:
        if device_id not in self._drivers:
            self._drivers[device_id] = self._open_gpu(_PURPOSE, device_id)
        return self._drivers[device_id]
