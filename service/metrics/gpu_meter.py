"""The door to NVIDIA's management library: what its GPUs do, use and draw. Opened where `nvidia-ml-py` is installed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MODULE = "pynvml"


@dataclass(slots=True, frozen=True)
class GpuReading:
    """Of one GPU; None for what it does not tell, such as the utilization of one that is parted into instances.

    Attributes:
        utilization: 0 to 1.
        power_usage: in watts.
        power_limit: in watts.
        energy_joules: since the meter was opened.
    """

    uuid: str
    utilization: float | None = None
    memory_total_bytes: float | None = None
    memory_used_bytes: float | None = None
    power_usage: float | None = None
    power_limit: float | None = None
    energy_joules: float | None = None


class GpuMeter:
    """Reads every GPU of the machine.

    Args:
        library: the module `pynvml`, initialized; it is shut down by `close`.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        self._gpus = [(_text(library.nvmlDeviceGetUUID(handle)), handle, self._energy(handle)) for handle in handles]

    def read(self) -> list[GpuReading]:
        """The state of each GPU, in the order of the driver; it may take milliseconds."""
        return [self._read(uuid, handle, energy_before) for uuid, handle, energy_before in self._gpus]

    def close(self) -> None:
        """Shut the library down."""
        self._library.nvmlShutdown()

    def _read(self, uuid: str, handle: Any, energy_before: float | None) -> GpuReading:
        nvml = self._library
        percent = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        usage = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        energy = self._energy(handle)
        return GpuReading(
            uuid=uuid,
            utilization=None if percent is None else percent / 100,
            memory_total_bytes=self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
            memory_used_bytes=self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            power_usage=None if usage is None else usage / 1000,
            power_limit=None if limit is None else limit / 1000,
            energy_joules=None if energy is None or energy_before is None else energy - energy_before,
        )

    def _energy(self, handle: Any) -> float | None:
        """Joules since the driver was loaded."""
        millijoules = self._ask(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(handle))
        return None if millijoules is None else millijoules / 1000

    def _ask(self, question: Callable[[], Any]) -> float | None:
        try:
            return float(question())
        except self._library.NVMLError:
            return None


def open_gpu_meter(load: Callable[[str], Any] = importlib.import_module) -> GpuMeter | None:
    """Open the library; None without it, without a driver, or without a GPU.

    Args:
        load: imports a module; raises ImportError where there is none of that name.
    """
    try:
        library = load(_MODULE)
    except ImportError:
        return None
    try:
        library.nvmlInit()
        meter = GpuMeter(library)
    except library.NVMLError:
        return None
    return meter


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
