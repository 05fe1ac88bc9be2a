"""How busy the machine's processors are and how much of its memory is used, as the kernel tells."""

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

# Of the numbers in the line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user.
_IDLE, _WAITING, _COUNTED = 3, 4, 8


@dataclass(slots=True, frozen=True)
class CpuReading:
    """Of the whole machine, whatever the container may use of it.

    Attributes:
        utilization: 0 to 1, of all cores since the reading before.
    """

    utilization: float
    memory_total_bytes: int
    memory_used_bytes: int


class CpuMeter:
    """Tells what happened between two readings.

    Args:
        root: where the kernel tells of itself.
    """

    def __init__(self, root: Path = PROC) -> None:
        self._root = root
        self._before = self._ticks()

    def read(self) -> CpuReading | None:
        """The state of the machine; None where the kernel does not tell it this way."""
        ticks, before = self._ticks(), self._before
        self._before = ticks
        memory = self._memory()
        if ticks is None or before is None or memory is None:
            return None
        busy, passed = ticks[0] - before[0], ticks[1] - before[1]
        return CpuReading(min(1.0, max(0.0, busy / passed)) if passed > 0 else 0.0, *memory)

    def _ticks(self) -> tuple[int, int] | None:
        """Time that was spent working, and all time."""
        name, *numbers = self._text("stat").partition("\n")[0].split()[: _COUNTED + 1] or [""]
        if name != "cpu" or len(numbers) <= _WAITING:
            return None
        counts = [int(number) for number in numbers]
        total = sum(counts)
        return total - counts[_IDLE] - counts[_WAITING], total

    def _memory(self) -> tuple[int, int] | None:
        facts = dict(line.split(":", 1) for line in self._text("meminfo").splitlines() if ":" in line)
        try:
            total, available = (int(facts[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
        except KeyError:
            return None
        return total, total - available

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text()
        except OSError:
            return ""
