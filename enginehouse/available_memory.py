"""How much memory this process can still have before its container or its machine runs out."""

from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MEMORY_FACTS = Path("/proc/meminfo")


def available_memory(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP, facts: Path = MEMORY_FACTS) -> int | None:
    """Bytes that are left under the strictest limit; None where nothing tells.

    File pages that the kernel can drop count as available, as they do for the kernel's own judgement of the machine.

    Args:
        root: where the cgroups are mounted, version 2 or 1.
        own: tells the path of this process below it.
        facts: what the kernel tells of the whole machine.
    """
    rooms = [*_unified(root, own), *_legacy(root / "memory", own), _machine(facts)]
    return min((room for room in rooms if room is not None), default=None)


def _machine(facts: Path) -> int | None:
    for line in _read(facts).splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) << 10
    return None


def _unified(root: Path, own: Path) -> Iterator[int | None]:
    paths = [line.removeprefix("0::") for line in _read(own).splitlines() if line.startswith("0::")]
    for folder in _way_up(root, paths):
        yield _room(folder, "memory.max", "memory.current", "inactive_file")


def _legacy(root: Path, own: Path) -> Iterator[int | None]:
    lines = [line.split(":", 2) for line in _read(own).splitlines()]
    paths = [line[2] for line in lines if len(line) == 3 and "memory" in line[1].split(",")]
    for folder in _way_up(root, paths):
        yield _room(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _way_up(root: Path, paths: list[str]) -> Iterator[Path]:
    """The cgroup of this process and those around it; in a container its own looks like the root."""
    for path in dict.fromkeys(["", *(path.strip("/") for path in paths)]):
        for folder in (root / path, *(root / path).parents):
            if folder.is_relative_to(root):
                yield folder


def _room(folder: Path, limit_file: str, usage_file: str, droppable: str) -> int | None:
    limit, usage = (_read(folder / name).strip() for name in (limit_file, usage_file))
    if not (limit.isdecimal() and usage.isdecimal()):
        return None
    statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines() if line.count(" ") == 1)
    return max(0, int(limit) - int(usage) + int(statistics.get(droppable, 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
