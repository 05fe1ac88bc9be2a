"""The comparison of ways to serve is of what it says: as many processes, and one engine where it is shared."""

import subprocess
import sys

from benchmarks.front_ends import WAYS, Outcome, measure, processes_of, proportional_bytes, table


def test_each_way_is_measured_and_a_shared_engine_is_in_memory_once() -> None:
    outcomes = measure(rounds=1, seconds=0.5, megabytes=100, clients=4)
    one, each, shared = (outcomes[way][0] for way in WAYS)
    assert all(outcome.requests_per_second > 0 and outcome.p99_ms > 0 for outcome in (one, each, shared))
    # Two have the large model twice.
    assert each.memory_bytes > one.memory_bytes + 100e6
    assert shared.memory_bytes < each.memory_bytes - 50e6


def test_the_processes_of_a_server_are_it_and_all_below() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        pids = processes_of(parent.pid)
        assert len(pids) == 2
        assert 0 < proportional_bytes(pids[1:]) < proportional_bytes(pids)
        parent.communicate(b"\n")


def test_the_table_shows_the_median() -> None:
    outcomes = {WAYS[0]: [Outcome(100, 1, 10**6), Outcome(300, 3, 3 * 10**6), Outcome(1200, 2, 2 * 10**6)]}
    made = table(outcomes, "")
    assert [list(column.cells) for column in made.columns] == [["1 server"], ["300"], ["2.0"], ["2"]]
