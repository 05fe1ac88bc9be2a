"""CPU limits as the kernel shows them to a process."""

import os
from pathlib import Path

import pytest

from enginehouse import hardware
from enginehouse.cpu_quota import quota_cores


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """What `/proc/self/cgroup` says in a container: its cgroup looks like the root."""
    path = tmp_path / "own"
    path.write_text("0::/\n")
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_container_reads_its_limit_at_the_root(tmp_path: Path, own: Path) -> None:
    write(tmp_path / "cgroup" / "cpu.max", "150000 100000\n")
    assert quota_cores(tmp_path / "cgroup", own) == 1.5


def test_no_limit_is_none(tmp_path: Path, own: Path) -> None:
    assert quota_cores(tmp_path / "cgroup", own) is None
    write(tmp_path / "cgroup" / "cpu.max", "max 100000\n")
    assert quota_cores(tmp_path / "cgroup", own) is None


def test_the_strictest_limit_on_the_way_up_counts(tmp_path: Path, own: Path) -> None:
    own.write_text("1:name=systemd:/other\n0::/slice/job\n")
    write(tmp_path / "cgroup" / "slice" / "job" / "cpu.max", "400000 100000\n")
    write(tmp_path / "cgroup" / "slice" / "cpu.max", "200000 100000\n")
    assert quota_cores(tmp_path / "cgroup", own) == 2.0


def test_a_limit_above_the_mount_is_not_looked_for(tmp_path: Path, own: Path) -> None:
    write(tmp_path / "cpu.max", "100000 100000\n")
    assert quota_cores(tmp_path / "cgroup", own) is None


@pytest.mark.parametrize(("quota", "expected"), [("50000\n", 0.5), ("-1\n", None), ("0\n", None)])
def test_the_older_form_is_read_too(tmp_path: Path, own: Path, quota: str, expected: float | None) -> None:
    write(tmp_path / "cgroup" / "cpu" / "cpu.cfs_quota_us", quota)
    write(tmp_path / "cgroup" / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert quota_cores(tmp_path / "cgroup", own) == expected


@pytest.mark.parametrize("text", ["", "200000", "max", "200000 0", "two 100000"])
def test_a_file_that_says_nothing_sets_no_limit(tmp_path: Path, own: Path, text: str) -> None:
    write(tmp_path / "cgroup" / "cpu.max", text)
    assert quota_cores(tmp_path / "cgroup", own) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.9, 2), (0.5, 1), (100.0, 8)])
def test_the_usable_cores_are_whole_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(hardware, "quota_cores", lambda: quota)
    assert hardware.usable_cores() == cores
