"""The door to NVIDIA's driver: memory of one GPU, copies to and from it, and its compute capability.

The driver's own library is used, because every machine with a GPU has it and no package brings it. TensorRT works in
the same context, the device's primary one.
"""

import ctypes
from typing import Any

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed, NotSupported

_LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76

IPC_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1


class _IpcHandle(ctypes.Structure):
    """What stands for the memory of another process; the driver takes it by value."""

    _fields_ = (("reserved", ctypes.c_ubyte * IPC_HANDLE_BYTES),)


class CudaDriver:
    """One GPU. Call it from one thread at a time, `activate` first in each.

    Args:
        library: the driver's library, as `ctypes` opens it.
        ordinal: which GPU.

    Raises:
        NotSupported: there is no GPU of that ordinal, or the driver cannot use it.
    """

    def __init__(self, library: Any, ordinal: int = 0) -> None:
        self._library = library
        try:
            self._call("cuInit", 0)
            count = self._int("cuDeviceGetCount")
        except EngineFailed as problem:
            raise NotSupported(f"this machine has an NVIDIA driver and no GPU that it can use: {problem}") from problem
        if ordinal >= count:
            raise NotSupported(f"GPU {ordinal} was asked for, and this machine has {count}.")
        self._device = self._int("cuDeviceGet", ordinal)
        major = self._int("cuDeviceGetAttribute", _CAPABILITY_MAJOR, self._device)
        minor = self._int("cuDeviceGetAttribute", _CAPABILITY_MINOR, self._device)
        self.compute_capability = f"{major}.{minor}"
        self._context = self._pointer("cuDevicePrimaryCtxRetain", self._device)
        self.activate()
        self.stream = self._pointer("cuStreamCreate", 0)

    def activate(self) -> None:
        """Make the calling thread work on this GPU."""
        self._call("cuCtxSetCurrent", ctypes.c_void_p(self._context))

    def allocate(self, size_bytes: int) -> int:
        """Address of new memory on the GPU."""
        return self._pointer("cuMemAlloc_v2", ctypes.c_size_t(size_bytes))

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_void_p(address))

    def open_shared(self, handle: bytes) -> int:
        """Address of memory that another process allocated and gave the handle of."""
        packed = _IpcHandle.from_buffer_copy(handle)
        return self._pointer("cuIpcOpenMemHandle_v2", packed, ctypes.c_uint(_LAZY_PEER_ACCESS))

    def close_shared(self, address: int) -> None:
        """Let go of memory of another process."""
        self._call("cuIpcCloseMemHandle", ctypes.c_void_p(address))

    def size_from(self, address: int) -> int:
        """Bytes from an address to the end of the allocation that it lies in."""
        base, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), ctypes.c_void_p(address))
        return (base.value or 0) + size.value - address

    def copy_in(self, address: int, array: Array) -> None:
        """Queue a copy to the GPU; `array` is contiguous and stays as it is until `synchronize`."""
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_void_p(address), *self._host(array))

    def copy_out(self, array: Array, address: int) -> None:
        """Queue a copy from the GPU; `array` is contiguous, and filled after `synchronize`."""
        pointer, *rest = self._host(array)
        self._call("cuMemcpyDtoHAsync_v2", pointer, ctypes.c_void_p(address), *rest)

    def synchronize(self) -> None:
        """Wait for what was queued; raises `EngineFailed` if any of it failed."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def close(self) -> None:
        """Let go of the GPU; may be called twice."""
        if not self._context:
            return
        self.activate()
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self._context = 0

    def _host(self, array: Array) -> tuple[Any, Any, Any]:
        return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream)

    def _int(self, function: str, *arguments: Any) -> int:
        found = ctypes.c_int()
        self._call(function, ctypes.byref(found), *arguments)
        return found.value

    def _pointer(self, function: str, *arguments: Any) -> int:
        found = ctypes.c_void_p()
        self._call(function, ctypes.byref(found), *arguments)
        return found.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            words = text.value.decode() if text.value else "unknown error"
            raise EngineFailed(f"the NVIDIA driver's {function} failed with {status}: {words}.")


def open_driver(purpose: str, ordinal: int = 0) -> CudaDriver:
    """Open the driver of this machine for one of its GPUs.

    Raises:
        NotSupported: there is no driver, or no GPU that it can use.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as problem:
        raise NotSupported(
            f"{purpose} needs an NVIDIA GPU with its driver, and {_LIBRARY} is not on this machine: {problem}. "
            "Run it where a GPU is, or take an ONNX engine."
        ) from problem
    return CudaDriver(library, ordinal)


def contiguous(array: Array) -> Array:
    """The array in row-major order; NumPy's own function makes a scalar a vector on the way."""
    return np.ascontiguousarray(array).reshape(array.shape)
