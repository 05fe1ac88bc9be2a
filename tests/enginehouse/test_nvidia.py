"""A fake of the driver's management library: ours is not on every machine that runs these tests."""
# ruff: noqa: N802  the library chose these names

import ctypes
from typing import Any

import pytest

from enginehouse.nvidia import Gpu, first_gpu


class FakeLibrary:
    """One GPU; `broken` names the call that answers with an error code."""

    def __init__(self, broken: str = "") -> None:
        self._broken = broken
        self.is_open = False

    def nvmlInit_v2(self) -> int:
        self.is_open = self._broken != "nvmlInit_v2"
        return self._code("nvmlInit_v2")

    def nvmlShutdown(self) -> int:
        self.is_open = False
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = 100 + index.value
        return self._code("nvmlDeviceGetHandleByIndex_v2")

    def nvmlDeviceGetName(self, device: ctypes.c_void_p, text: Any, length: ctypes.c_uint) -> int:
        assert device.value == 100
        text.value = b"NVIDIA Fake 4000"[: length.value - 1]
        return self._code("nvmlDeviceGetName")

    def nvmlDeviceGetCudaComputeCapability(self, device: ctypes.c_void_p, major: Any, minor: Any) -> int:
        assert device.value == 100
        major._obj.value, minor._obj.value = 12, 0
        return self._code("nvmlDeviceGetCudaComputeCapability")

    def nvmlSystemGetDriverVersion(self, text: Any, length: ctypes.c_uint) -> int:
        text.value = b"580.65.06"[: length.value - 1]
        return self._code("nvmlSystemGetDriverVersion")

    def _code(self, call: str) -> int:
        return 999 if call == self._broken else 0


def test_the_first_gpu_is_described() -> None:
    library = FakeLibrary()
    assert first_gpu(lambda _: library) == Gpu("NVIDIA Fake 4000", "12.0", "580.65.06")
    assert not library.is_open


@pytest.mark.parametrize(
    "call",
    [
        "nvmlInit_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetName",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlSystemGetDriverVersion",
    ],
)
def test_a_driver_that_does_not_answer_is_no_gpu(call: str) -> None:
    library = FakeLibrary(call)
    assert first_gpu(lambda _: library) is None
    assert not library.is_open


def test_a_machine_without_a_driver_has_no_gpu() -> None:
    def refuse(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert first_gpu(refuse) is None
