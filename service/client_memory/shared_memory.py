"""Memory that clients registered: POSIX shared memory and, where the driver is, memory of a GPU.

Nothing is mapped. A client can shrink its object at any moment, and touching a mapped page that is gone kills the
process (SIGBUS); no check beforehand helps, because such an object cannot be sealed. Reading and writing through the
file descriptor costs the one copy that a mapped input would save, and answers a short count instead of a signal.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from enginehouse.errors import AlreadyExists, InvalidInput, NotFound, NotSupported
from service.client_memory.cuda_memory import CudaMemory, CudaRegion

DIRECTORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux, whoever runs this

# As much as a gRPC message may hold: what a client could not send it cannot let the server read either.
LARGEST_TENSOR_BYTES = 2**31 - 1
MAX_REGIONS = 4096
_LONGEST_NAME = 255
_LARGEST = 2**63 - 1
# Memory of processes that belong to a server: no client has any business there.
_RESERVED_KEYS = ("triton_python_backend_shm_region_", "enginehouse")


@dataclass(slots=True, frozen=True)
class SystemRegion:
    """A part of one POSIX shared memory object, which stays open although a client unlinks it."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def check(self, offset: int, byte_size: int) -> None:
        """Raise `InvalidInput` if these bytes, inside the region, are not there any more."""
        found = os.fstat(self.descriptor).st_size
        if self.offset + offset + byte_size > found:
            raise InvalidInput(
                f"shared memory region '{self.name}' has shrunk to {max(0, found - self.offset)} bytes; "
                f"{offset + byte_size} are needed."
            )

    def read(self, offset: int, byte_size: int) -> memoryview:
        """Copy bytes, counted from the start of the region; raises `InvalidInput` if they went away meanwhile."""
        data = bytearray(byte_size)
        view = memoryview(data)
        done = 0
        while done < byte_size:
            count = os.preadv(self.descriptor, [view[done:]], self.offset + offset + done)
            if not count:
                raise InvalidInput(f"shared memory region '{self.name}' shrank while it was read.")
            done += count
        return view.toreadonly()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy `data` into the region, from `offset` on; raises `InvalidInput` if it cannot be written."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self.descriptor, view[done:], self.offset + offset + done)
        except OSError as problem:
            raise InvalidInput(
                f"shared memory region '{self.name}' cannot be written: {problem.strerror}."
            ) from problem

    def close(self) -> None:
        os.close(self.descriptor)


Kind = TypeVar("Kind", SystemRegion, CudaRegion)


class SharedMemory:
    """All registered regions; system and CUDA regions share their names. Only the thread of the queues calls it.

    Args:
        is_allowed: whether clients may register anything; off is the default, because whoever may register a key
            reads and writes that memory with the rights of this server.
        cuda: the door to the GPUs.
    """

    def __init__(self, is_allowed: bool, cuda: CudaMemory | None = None) -> None:
        self.is_allowed = is_allowed
        self._regions: dict[str, SystemRegion | CudaRegion] = {}
        self._cuda = cuda or CudaMemory()

    @property
    def has_cuda(self) -> bool:
        """Whether memory of a GPU can be registered here."""
        return self.is_allowed and self._cuda.is_available

    def register_system(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a POSIX shared memory object.

        Raises:
            NotSupported: shared memory is off.
            AlreadyExists: the name is taken.
            InvalidInput: there is no such object, or it is smaller than what is registered.
        """
        self._check_new(name, byte_size)
        if not 0 <= offset <= _LARGEST - byte_size:
            raise InvalidInput(f"failed to register shared memory region '{name}': offset {offset} makes no sense.")
        descriptor = _open(key)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or offset + byte_size > status.st_size:
                raise InvalidInput(
                    f"failed to register shared memory region '{name}': invalid args. "
                    f"'{key}' has {status.st_size} bytes; offset {offset} and {byte_size} bytes were given."
                )
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = SystemRegion(name, key, offset, byte_size, descriptor)

    def register_cuda(self, name: str, raw_handle: bytes, device_id: int, byte_size: int) -> None:
        """Open memory of a GPU by its IPC handle.

        Raises:
            NotSupported: shared memory is off, or there is no GPU here.
            AlreadyExists: the name is taken.
            InvalidInput: the handle is not one, or stands for fewer bytes.
        """
        self._check_new(name, byte_size)
        self._regions[name] = self._cuda.open(name, raw_handle, device_id, byte_size)

    def system_regions(self, name: str = "") -> list[SystemRegion]:
        """One region, or all; raises `NotFound` for a name that is not registered."""
        found = [region for region in self._regions.values() if isinstance(region, SystemRegion)]
        return _named(found, name, "system")

    def cuda_regions(self, name: str = "") -> list[CudaRegion]:
        """One region, or all; raises `NotFound` for a name that is not registered."""
        found = [region for region in self._regions.values() if isinstance(region, CudaRegion)]
        return _named(found, name, "CUDA")

    def unregister_system(self, name: str = "") -> None:
        """Forget one region, or all; one that is not there is forgotten already."""
        self._forget([region for region in self.system_regions() if name in ("", region.name)])

    def unregister_cuda(self, name: str = "") -> None:
        """Forget one region, or all; one that is not there is forgotten already."""
        self._forget([region for region in self.cuda_regions() if name in ("", region.name)])

    def close(self) -> None:
        """Let go of everything."""
        self._forget(list(self._regions.values()))
        self._cuda.close()

    def check(self, region: str, offset: int, byte_size: int) -> None:
        """Raise `InvalidInput` if these bytes cannot be used now."""
        self._found(region, offset, byte_size).check(offset, byte_size)

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:
        """The bytes as they are now, in memory of the server's own; raises `InvalidInput` if they are not there."""
        found = self._found(region, offset, byte_size)
        if byte_size > LARGEST_TENSOR_BYTES:
            raise InvalidInput(
                f"{byte_size} bytes of region '{region}' are too many; {LARGEST_TENSOR_BYTES} is the most."
            )
        found.check(offset, byte_size)
        return found.read(offset, byte_size)

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:
        """Put `data` at the start of these bytes; raises `InvalidInput` if it does not fit or they are gone."""
        found = self._found(region, offset, byte_size)
        if len(data) > byte_size:
            raise InvalidInput(f"{len(data)} bytes do not fit into {byte_size} bytes of region '{region}'.")
        found.check(offset, len(data))
        found.write(offset, data)

    def _found(self, region: str, offset: int, byte_size: int) -> SystemRegion | CudaRegion:
        found = self._regions.get(region)
        if found is None:
            raise InvalidInput(f"Unable to find shared memory region: '{region[:80]}'; register it first.")
        if offset >= found.byte_size or offset < 0:
            raise InvalidInput(f"Invalid offset for shared memory region: '{region}': {offset} of {found.byte_size}.")
        if not 0 <= byte_size <= found.byte_size - offset:
            raise InvalidInput(
                f"Invalid offset + byte size for shared memory region: '{region}': "
                f"{offset} + {byte_size} of {found.byte_size}."
            )
        return found

    def _check_new(self, name: str, byte_size: int) -> None:
        if not self.is_allowed:
            raise NotSupported(
                "shared memory of clients is off; start the server with --allow-client-shm true where clients may be "
                "trusted with the shared memory of its machine."
            )
        if not name or len(name) > _LONGEST_NAME:
            raise InvalidInput(f"a region's name has {len(name)} characters; 1 to {_LONGEST_NAME} are expected.")
        if name in self._regions:
            raise AlreadyExists(f"shared memory region '{name}' already in manager")
        if not 0 < byte_size <= _LARGEST:
            raise InvalidInput(f"failed to register shared memory region '{name}': {byte_size} bytes make no sense.")
        if len(self._regions) >= MAX_REGIONS:
            raise InvalidInput(f"{MAX_REGIONS} shared memory regions are registered; unregister one first.")

    def _forget(self, regions: Iterable[SystemRegion | CudaRegion]) -> None:
        for region in regions:
            del self._regions[region.name]
            region.close()


def _named(regions: list[Kind], name: str, kind: str) -> list[Kind]:
    found = [region for region in regions if name in ("", region.name)]
    if name and not found:
        raise NotFound(f"Unable to find {kind} shared memory region: '{name[:80]}'")
    return found


def _open(key: str) -> int:
    """Open an object as `shm_open` does, for reading and writing; never make one."""
    name = key.lstrip("/")
    if (
        not name
        or "/" in name
        or "\0" in name
        or name in (".", "..")
        or len(name.encode(errors="replace")) > _LONGEST_NAME
    ):
        raise InvalidInput(f"'{key[:80]}' is no key of a shared memory region; a slash and a file name are expected.")
    if name.startswith(_RESERVED_KEYS):
        raise InvalidInput(f"'{key[:80]}' is reserved for the server's own shared memory; take another key.")
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(DIRECTORY / name, flags)
    except (OSError, UnicodeEncodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "that is no file name"
        raise InvalidInput(f"Unable to open shared memory region: {key!r}: {reason}.") from problem
