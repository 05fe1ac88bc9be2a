"""How much memory is left, as the kernel shows it to a process."""

from pathlib import Path

import pytest

from enginehouse.available_memory import available_memory


class Machine:
    """Files as the kernel writes them."""

    def __init__(self, folder: Path) -> None:
        self.root, self.own, self.facts = folder / "cgroup", folder / "own", folder / "meminfo"
        self.own.write_text("0::/\n")
        self.facts.write_text("MemTotal:  8000 kB\nMemFree: 10 kB\nMemAvailable:   4000 kB\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def available(self) -> int | None:
        return available_memory(self.root, self.own, self.facts)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_limit_the_machine_tells(machine: Machine) -> None:
    assert machine.available() == 4000 * 1024
    machine.write("memory.max", "max\n")
    machine.write("memory.current", "1000\n")
    assert machine.available() == 4000 * 1024


def test_a_container_has_what_its_limit_leaves_and_may_drop_file_pages(machine: Machine) -> None:
    machine.write("memory.max", "100000\n")
    machine.write("memory.current", "90000\n")
    assert machine.available() == 10000
    machine.write("memory.stat", "anon 50000\ninactive_file 30000\n")
    assert machine.available() == 40000
    machine.write("memory.current", "200000\n")
    assert machine.available() == 0


def test_the_strictest_limit_on_the_way_up_counts(machine: Machine) -> None:
    machine.own.write_text("0::/pods/one\n")
    for path, limit in (("pods/one", 5000), ("pods", 3000)):
        machine.write(f"{path}/memory.max", f"{limit}\n")
        machine.write(f"{path}/memory.current", "1000\n")
    assert machine.available() == 2000


def test_the_older_files_tell_too(machine: Machine) -> None:
    machine.own.write_text("5:cpu,memory:/box\n0::/\n")
    machine.write("memory/box/memory.limit_in_bytes", "7000\n")
    machine.write("memory/box/memory.usage_in_bytes", "5000\n")
    machine.write("memory/box/memory.stat", "total_inactive_file 500\n")
    assert machine.available() == 2500
    machine.write("memory/box/memory.limit_in_bytes", "9223372036854771712\n")
    assert machine.available() == 4000 * 1024


def test_where_nothing_tells_nothing_is_known(machine: Machine) -> None:
    machine.facts.unlink()
    assert machine.available() is None


def test_this_machine_tells() -> None:
    available = available_memory()
    assert available is not None
    assert available > 0
