"""The first NVIDIA GPU as its driver describes it, through the management library that comes with every driver."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_LONGEST_TEXT = 96


@dataclass(frozen=True, slots=True)
class Gpu:
    """Name, compute capability such as `8.9`, and version of the driver."""

    name: str
    compute_capability: str
    driver: str


def first_gpu(load: Callable[[str], Any] = ctypes.CDLL) -> Gpu | None:
    """Ask the driver; None where there is none, or where it does not answer.

    Args:
        load: opens a shared library; raises OSError where there is none of that name.
    """
    try:
        library = load(_LIBRARY)
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    try:
        return _described(library)
    finally:
        library.nvmlShutdown()


def _described(library: Any) -> Gpu | None:
    device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    name, driver = (ctypes.create_string_buffer(_LONGEST_TEXT) for _ in range(2))
    failed = (
        library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(device))
        or library.nvmlDeviceGetName(device, name, ctypes.c_uint(_LONGEST_TEXT))
        or library.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
        or library.nvmlSystemGetDriverVersion(driver, ctypes.c_uint(_LONGEST_TEXT))
    )
    if failed:
        return None
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}", driver.value.decode())
