"""The kernel's figures are read as they are written."""

from pathlib import Path

from service.metrics.cpu_meter import CpuMeter, CpuReading

MEMORY = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nHugePages_Total:       0\n"


def write(root: Path, *ticks: int, memory: str = MEMORY) -> None:
    (root / "stat").write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3 4\n")
    (root / "meminfo").write_text(memory)


def test_work_counts_since_the_reading_before_and_waiting_is_none(tmp_path: Path) -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice
    write(tmp_path, 100, 0, 50, 800, 50, 0, 0, 0, 70, 0)
    meter = CpuMeter(tmp_path)
    write(tmp_path, 120, 5, 60, 850, 60, 2, 2, 1, 90, 0)
    assert meter.read() == CpuReading(0.4, 1000 << 10, 400 << 10)
    write(tmp_path, 120, 5, 60, 950, 60, 2, 2, 1, 90, 0)
    assert meter.read() == CpuReading(0.0, 1000 << 10, 400 << 10)
    write(tmp_path, 220, 5, 60, 950, 60, 2, 2, 1, 90, 0)
    assert meter.read() == CpuReading(1.0, 1000 << 10, 400 << 10)


def test_two_readings_in_one_tick_are_no_work(tmp_path: Path) -> None:
    write(tmp_path, 100, 0, 50, 800, 50, 0, 0, 0)
    assert CpuMeter(tmp_path).read() == CpuReading(0.0, 1000 << 10, 400 << 10)


def test_a_system_that_does_not_tell_has_no_reading(tmp_path: Path) -> None:
    assert CpuMeter(tmp_path).read() is None
    write(tmp_path, 100, 0, 50, 800, 50, memory="MemTotal: 1000 kB\n")
    assert CpuMeter(tmp_path).read() is None


def test_this_machine_is_read() -> None:
    reading = CpuMeter().read()
    assert reading is not None
    assert 0 <= reading.utilization <= 1
    assert 0 < reading.memory_used_bytes < reading.memory_total_bytes
