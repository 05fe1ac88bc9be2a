"""The meters are read in a thread, over and over, and their last word is told."""

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from service.metrics.cpu_meter import CpuMeter, CpuReading
from service.metrics.exposition import exposition_from_metrics
from service.metrics.gpu_meter import GpuReading
from service.metrics.machine_metrics import MachineMetrics, gpu_metrics


class Meter:
    """Gives what it was told to, one reading after the other; the last one again and again."""

    def __init__(self, *readings: Any) -> None:
        self.readings = list(readings)
        self.count = 0
        self.is_through = Event()
        self.is_closed = False

    def read(self) -> Any:
        reading = self.readings[min(self.count, len(self.readings) - 1)]
        self.count += 1
        if self.count > len(self.readings):
            # The one before is in its place by now.
            self.is_through.set()
        if isinstance(reading, Exception):
            self.is_through.set()
            raise reading
        return reading

    def close(self) -> None:
        self.is_closed = True


def told(machine: MachineMetrics) -> list[str]:
    lines = exposition_from_metrics(machine.collect()).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def run(cpu: Any, open_gpus: Callable[[], Any] | None, last: Meter) -> MachineMetrics:
    machine = MachineMetrics(0.001, cpu, open_gpus)
    machine.start()
    assert last.is_through.wait(10)
    return machine


def test_every_reading_takes_the_place_of_the_one_before() -> None:
    cpu = Meter(CpuReading(0.25, 1000, 100), CpuReading(0.5, 1000, 300))
    gpus = Meter([GpuReading("a", 0.1, 9, 8, 7, 6, 5)], [GpuReading("a", 0.2, 9, 8, 7, 6, 5.5), GpuReading("b", 1.0)])
    machine = run(cpu, lambda: gpus, gpus)
    assert told(machine) == [
        "nv_cpu_utilization 0.5",
        "nv_cpu_memory_total_bytes 1000",
        "nv_cpu_memory_used_bytes 300",
        'nv_gpu_utilization{gpu_uuid="a"} 0.2',
        'nv_gpu_utilization{gpu_uuid="b"} 1',
        'nv_gpu_memory_total_bytes{gpu_uuid="a"} 9',
        'nv_gpu_memory_used_bytes{gpu_uuid="a"} 8',
        'nv_gpu_power_usage{gpu_uuid="a"} 7',
        'nv_gpu_power_limit{gpu_uuid="a"} 6',
        'nv_energy_consumption{gpu_uuid="a"} 5.5',
    ]
    assert not gpus.is_closed
    machine.stop()
    assert gpus.is_closed


def test_energy_is_a_counter_and_what_no_gpu_tells_is_no_family() -> None:
    kinds = {metric.name: metric.type for metric in gpu_metrics([GpuReading("a", energy_joules=1.0)])}
    assert kinds == {"nv_energy_consumption": "counter"}


def test_a_machine_without_gpus_tells_of_its_processors() -> None:
    cpu = Meter(CpuReading(0.25, 1000, 100))
    machine = run(cpu, lambda: None, cpu)
    assert [line.split()[0] for line in told(machine)] == [
        "nv_cpu_utilization",
        "nv_cpu_memory_total_bytes",
        "nv_cpu_memory_used_bytes",
    ]
    machine.stop()


def test_with_nothing_to_read_nothing_is_told_and_no_thread_stays() -> None:
    machine = MachineMetrics(3600, None, None)
    machine.start()
    machine._thread.join(10)
    assert not machine._thread.is_alive()
    assert told(machine) == []
    machine.stop()


def test_a_machine_that_was_never_started_can_be_stopped() -> None:
    MachineMetrics(3600, CpuMeter(), None).stop()


def test_a_meter_that_breaks_leaves_no_old_figures(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Meter([GpuReading("a", 0.1)], OSError("the GPU fell off the bus"))
    machine = run(None, lambda: gpus, gpus)
    machine._thread.join(10)
    assert told(machine) == []
    assert gpus.is_closed
    assert "cannot be read any more" in caplog.text
    machine.stop()
