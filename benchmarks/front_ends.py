"""What several servers on one machine bring, and what an engine that they share costs and saves.

    python -m benchmarks.front_ends [--seconds 10] [--rounds 3] [--megabytes 100] [--clients 16]

One server, two that have an engine each, and two that share one, in turns within each round, each started anew: what
they answer of the digits CNN, and the memory of all their processes (PSS: a page that several have counts once), in
which a second model of so many megabytes takes part that nobody asks. The clients are divided evenly. The table shows
the median over the rounds.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, http_load
from benchmarks.running_server import ROOT, RunningServer, running_server
from benchmarks.soak import save_large_model
from enginehouse.hardware import this_hardware

_CONFIG = "max_batch_size: 32 dynamic_batching { } instance_group [ { kind: KIND_CPU count: 1 } ]\n"
_SHARED = 'parameters { key: "isolation" value { string_value: "shared" } }\n'


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve the models."""

    name: str
    servers: int
    is_shared: bool = False


WAYS = (Way("1 server", 1), Way("2 servers, an engine each", 2), Way("2 servers, one engine", 2, is_shared=True))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one way in one round."""

    requests_per_second: float
    p99_ms: float
    memory_bytes: int


def main() -> None:
    arguments = _arguments()
    outcomes = measure(arguments.rounds, arguments.seconds, arguments.megabytes, arguments.clients)
    load = f"load {os.getloadavg()[0]:.1f}"
    title = (
        f"{this_hardware()}; {load}; {arguments.rounds} rounds of {arguments.seconds:g} s, {arguments.clients} clients"
    )
    Console(width=120).print(table(outcomes, title))


def measure(rounds: int, seconds: float, megabytes: float, clients: int) -> dict[Way, list[Outcome]]:
    """Wear each way in turns."""
    outcomes: dict[Way, list[Outcome]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        repositories = {is_shared: Path(folder) / str(is_shared) for is_shared in (False, True)}
        for is_shared, repository in repositories.items():
            _save_models(repository, megabytes, _CONFIG + _SHARED * is_shared)
        for number in range(rounds):
            for way in WAYS:
                with _serving(way, repositories[way.is_shared], Path(folder) / f"engines{number}") as servers:
                    outcomes[way].append(_wear(servers, seconds, clients))
    return outcomes


def table(outcomes: dict[Way, list[Outcome]], title: str) -> Table:
    made = Table(title=title)
    for column in ("", "requests/s", "p99 ms", "memory MB"):
        made.add_column(column, justify="right" if column else "left")
    for way, found in outcomes.items():
        rate = statistics.median(outcome.requests_per_second for outcome in found)
        p99 = statistics.median(outcome.p99_ms for outcome in found)
        memory = statistics.median(outcome.memory_bytes for outcome in found) / 1e6
        made.add_row(way.name, f"{rate:,.0f}", f"{p99:.1f}", f"{memory:,.0f}")
    return made


def processes_of(pid: int) -> list[int]:
    """A process and all that it started, as long as it is their parent."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes_of(int(child))
    return found


def proportional_bytes(pids: Sequence[int]) -> int:
    """The memory of processes; what they have in common with each other or with others counts by its share."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@contextmanager
def _serving(way: Way, repository: Path, directory: Path) -> Iterator[list[RunningServer]]:
    flags = ["--shared-engines", str(directory)] if way.is_shared else []
    with ExitStack() as stack:
        yield [stack.enter_context(running_server(repository, *flags)) for _ in range(way.servers)]


def _wear(servers: Sequence[RunningServer], seconds: float, clients: int) -> Outcome:
    row = np.zeros((1, 1, 8, 8), np.float32)

    def load(server: RunningServer) -> Load:
        return http_load(server.http_port, "digits", "pixels", row, max(1, clients // len(servers)), seconds)

    with ThreadPoolExecutor(len(servers)) as pool:
        loads = list(pool.map(load, servers))
    memory = proportional_bytes([pid for server in servers for pid in processes_of(server.pid)])
    rate = sum(one.requests_per_second for one in loads)
    latencies = [latency for one in loads for latency in one.latencies]
    return Outcome(rate, float(np.percentile(latencies, 99)) * 1000, memory)


def _save_models(repository: Path, megabytes: float, config: str) -> None:
    save_large_model(repository / "large", megabytes)
    version = repository / "digits" / "1"
    version.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "digits" / "digits.onnx", version / "model.onnx")
    for name in ("digits", "large"):
        (repository / name / "config.pbtxt").write_text(config)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load on each way in each round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of the model that lies beside")
    parser.add_argument("--clients", type=int, default=16, help="connections that ask, in all")
    return parser.parse_args()


if __name__ == "__main__":
    main()
