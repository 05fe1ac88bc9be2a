"""What the machine under the server does: Triton's metrics of processors and GPUs, read once per interval."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event, Thread

from prometheus_client.core import Metric

from service.metrics.cpu_meter import CpuMeter, CpuReading
from service.metrics.gpu_meter import GpuMeter, GpuReading

_log = logging.getLogger(__name__)

_CPU = (
    ("nv_cpu_utilization", "Share of all cores' time that was spent working, in the last interval", "utilization"),
    ("nv_cpu_memory_total_bytes", "Memory of the machine", "memory_total_bytes"),
    ("nv_cpu_memory_used_bytes", "Memory of the machine that cannot be had", "memory_used_bytes"),
)
_GPU = (
    ("nv_gpu_utilization", "gauge", "Share of the last moments in which the GPU worked", "utilization"),
    ("nv_gpu_memory_total_bytes", "gauge", "Memory of the GPU", "memory_total_bytes"),
    ("nv_gpu_memory_used_bytes", "gauge", "Memory of the GPU that is in use, by anybody", "memory_used_bytes"),
    ("nv_gpu_power_usage", "gauge", "Power that the GPU draws, in watts", "power_usage"),
    ("nv_gpu_power_limit", "gauge", "Power that the GPU may draw, in watts", "power_limit"),
    (
        "nv_energy_consumption",
        "counter",
        "Energy that the GPU took since the server started, in joules",
        "energy_joules",
    ),
)


class MachineMetrics:
    """Reads in a thread of its own, because a GPU may take milliseconds to answer; tells the last readings.

    Args:
        interval_seconds: between two readings.
        cpu: of the processors; None for no metrics of them.
        open_gpus: opens what reads GPUs, in the thread too; its None is for a machine without any.
    """

    def __init__(
        self, interval_seconds: float, cpu: CpuMeter | None, open_gpus: Callable[[], GpuMeter | None] | None
    ) -> None:
        self._interval_seconds = interval_seconds
        self._cpu = cpu
        self._open_gpus = open_gpus
        self._cpu_reading: CpuReading | None = None
        self._gpu_readings: Sequence[GpuReading] = ()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="machine-metrics", daemon=True)

    def start(self) -> None:
        """Read from now on, the first time at once."""
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the last reading is over."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """The families of what could be read."""
        if self._cpu_reading is not None:
            yield from cpu_metrics(self._cpu_reading)
        yield from gpu_metrics(self._gpu_readings)

    def _run(self) -> None:
        gpus = None
        try:
            gpus = self._open_gpus() if self._open_gpus is not None else None
            while self._cpu is not None or gpus is not None:
                self._cpu_reading = self._cpu.read() if self._cpu is not None else None
                self._gpu_readings = gpus.read() if gpus is not None else ()
                if self._ended.wait(self._interval_seconds):
                    return
        except Exception:
            # A driver may fail in any way; the server goes on without these metrics rather than with old ones.
            self._cpu_reading, self._gpu_readings = None, ()
            _log.exception("the meters of this machine cannot be read any more")
        finally:
            if gpus is not None:
                gpus.close()


def cpu_metrics(reading: CpuReading) -> Iterator[Metric]:
    """One gauge for each thing that was read."""
    for name, text, attribute in _CPU:
        metric = Metric(name, text, "gauge")
        metric.add_sample(name, {}, getattr(reading, attribute))
        yield metric


def gpu_metrics(readings: Iterable[GpuReading]) -> Iterator[Metric]:
    """One family for each thing that some GPU tells."""
    readings = tuple(readings)
    for name, kind, text, attribute in _GPU:
        metric = Metric(name, text, kind)
        for reading in readings:
            value = getattr(reading, attribute)
            if value is not None:
                metric.add_sample(name, {"gpu_uuid": reading.uuid}, value)
        if metric.samples:
            yield metric
