"""How much CPU time the cgroup allows this process: what a container's CPU limit becomes."""

from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def quota_cores(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> float | None:
    """The strictest limit on the way from this process's cgroup to the root, in cores; None where there is none.

    Affinity does not show it: a container that may use two cores' time still sees every core of its host, and with a
    thread for each it is stopped by the kernel for most of every period.

    Args:
        root: where the cgroups are mounted, version 2 or 1.
        own: tells the path of this process below it.
    """
    limits = [limit for limit in (*_unified(root, own), _legacy(root / "cpu")) if limit is not None]
    return min(limits, default=None)


def _unified(root: Path, own: Path) -> Iterator[float | None]:
    """`cpu.max` holds `<quota or max> <period>`, in each cgroup but the host's root."""
    paths = [line.removeprefix("0::").strip("/") for line in _read(own).splitlines() if line.startswith("0::")]
    for path in {"", *paths}:
        for folder in (root / path, *(root / path).parents):
            if folder.is_relative_to(root):
                quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
                yield _cores(quota, period)


def _legacy(folder: Path) -> float | None:
    return _cores(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _cores(quota: str, period: str) -> float | None:
    """Quota over period; "max", -1, and files that are not there mean no limit."""
    if not (quota.isdecimal() and period.isdecimal()) or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
