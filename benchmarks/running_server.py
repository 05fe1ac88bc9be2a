"""A server process of our own for a benchmark to load."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_ADDRESS = re.compile(r"(HTTP|gRPC|metrics) .*127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, and its process."""

    http_port: int
    grpc_port: int
    pid: int

    def memory_bytes(self) -> int:
        """What it holds in memory now."""
        (line,) = [
            line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith("VmRSS")
        ]
        return int(line.split()[1]) * 1024


@contextmanager
def running_server(repository: Path, *flags: str) -> Iterator[RunningServer]:
    """Start a server on free ports of the loopback, and end it."""
    command = [sys.executable, "-m", "service", "--model-repository", str(repository), *flags]
    for transport in ("http", "grpc", "metrics"):
        command += [f"--{transport}-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            found = [_ADDRESS.search(next(process.stdout)) for _ in range(4)]
            ports = {match[1]: int(match[2]) for match in found if match}
            yield RunningServer(ports["HTTP"], ports["gRPC"], process.pid)
        finally:
            process.terminate()
