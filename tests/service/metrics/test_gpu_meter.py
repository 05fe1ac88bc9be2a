"""What NVIDIA's library says is told in Triton's units, and what it does not say is left out."""

# ruff: noqa: N802 - the library spells its names so.

from types import SimpleNamespace
from typing import Any

import pytest

from service.metrics.gpu_meter import GpuMeter, GpuReading, open_gpu_meter


class FakeNvml:
    """The module `pynvml` over GPUs that a test describes; a GPU that lacks a fact does not support it."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: dict[str, Any], has_driver: bool = True) -> None:
        self.gpus = gpus
        self.has_driver = has_driver
        self.is_open = False

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: dict[str, Any]) -> Any:
        return handle["uuid"]

    def nvmlDeviceGetUtilizationRates(self, handle: dict[str, Any]) -> Any:
        return SimpleNamespace(gpu=self._fact(handle, "percent"))

    def nvmlDeviceGetMemoryInfo(self, handle: dict[str, Any]) -> Any:
        return SimpleNamespace(total=self._fact(handle, "total"), used=self._fact(handle, "used"))

    def nvmlDeviceGetPowerUsage(self, handle: dict[str, Any]) -> Any:
        return self._fact(handle, "milliwatts")

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: dict[str, Any]) -> Any:
        return self._fact(handle, "limit")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: dict[str, Any]) -> Any:
        return self._fact(handle, "millijoules")

    def _fact(self, handle: dict[str, Any], name: str) -> Any:
        assert self.is_open
        if name not in handle:
            raise self.NVMLError("Not Supported")
        return handle[name]


def whole_gpu() -> dict[str, Any]:
    return {
        "uuid": "GPU-1",
        "percent": 40,
        "total": 80 << 30,
        "used": 20 << 30,
        "milliwatts": 350_500,
        "limit": 700_000,
        "millijoules": 5_000_000,
    }


def opened(library: FakeNvml) -> GpuMeter:
    meter = open_gpu_meter(lambda name: library if name == "pynvml" else None)
    assert meter is not None
    return meter


def test_each_gpu_is_told_in_shares_bytes_watts_and_joules_since_the_start() -> None:
    first, second = whole_gpu(), {**whole_gpu(), "uuid": b"GPU-2", "percent": 100}
    meter = opened(FakeNvml(first, second))
    first["millijoules"] += 12_500
    assert meter.read() == [
        GpuReading("GPU-1", 0.4, 80 << 30, 20 << 30, 350.5, 700.0, 12.5),
        GpuReading("GPU-2", 1.0, 80 << 30, 20 << 30, 350.5, 700.0, 0.0),
    ]


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    assert opened(FakeNvml({"uuid": "MIG", "percent": 1})).read() == [GpuReading("MIG", utilization=0.01)]


def test_without_the_package_or_a_driver_there_is_no_meter() -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    assert open_gpu_meter(missing) is None
    assert open_gpu_meter(lambda _: FakeNvml(whole_gpu(), has_driver=False)) is None


def test_the_library_is_shut_down_at_the_end() -> None:
    library = FakeNvml(whole_gpu())
    meter = opened(library)
    assert library.is_open
    meter.close()
    assert not library.is_open


def test_the_names_are_those_of_the_real_library() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]:
        assert hasattr(pynvml, name)
