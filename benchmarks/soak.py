"""A model of 100 MB is reloaded in a loop while clients ask it: does a request fail, does memory stay, who waits?

    python -m benchmarks.soak [--seconds 300] [--megabytes 100]

The clients ask without a pause, on connections of their own; each answer is compared with the right one. For the first
tenth of the time nothing is reloaded: what the server's process holds in memory at its end, with the model loaded once,
is what the end is compared with. Ends with 1 if a request failed or memory grew by more than 5 %.
Server and clients share the machine.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.load import http_request
from benchmarks.open_loop import percentile
from benchmarks.running_server import RunningServer, running_server
from enginehouse.dtype import Array
from enginehouse.hardware import this_hardware

MAX_GROWTH = 0.05
CLIENTS = 4
_QUIET_SHARE = 0.1
_LAYERS = 4
_RELOAD = b"POST /v2/repository/models/large/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Soak:
    """What one run saw.

    Attributes:
        quiet, busy: seconds of each answer while nothing was reloaded, and while something was.
        failures: what was wrong with an answer, or with a reload.
        reloads: seconds that each took.
        memory: bytes before the first reload, and after each.
    """

    quiet: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Of memory, from before the first reload to after the last."""
        return self.memory[-1] / self.memory[0] - 1

    @property
    def holds(self) -> bool:
        return bool(self.reloads) and not self.failures and self.growth <= MAX_GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--megabytes", type=float, default=100.0)
    arguments = parser.parse_args()
    outcome = soak(arguments.seconds, arguments.megabytes)
    Console(width=150).print(table(outcome, arguments.seconds, arguments.megabytes))
    for failure in outcome.failures[:10]:
        print(failure, file=sys.stderr)
    return 0 if outcome.holds else 1


def soak(seconds: float, megabytes: float) -> Soak:
    """Make the model, serve it and wear it."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        width = save_large_model(repository / "large", megabytes)
        with running_server(repository, "--model-control-mode", "explicit", "--load-model", "large") as server:
            return uvloop.run(_wear(server, width, seconds))


def save_large_model(model: Path, megabytes: float) -> int:
    """Write a model of so many megabytes: matrix products, each of which doubles a row of equals. Tells the width."""
    width = int((megabytes * 1e6 / 4 / _LAYERS) ** 0.5)
    names = ["x", *(f"h{layer}" for layer in range(1, _LAYERS)), "y"]
    doubling = 2 * np.eye(width, dtype=np.float32)
    # Each its own: equal weights would be kept once.
    weights = [numpy_helper.from_array(np.roll(doubling, layer, axis=1), f"w{layer}") for layer in range(_LAYERS)]
    nodes = [
        helper.make_node("MatMul", [source, weight.name], [target])
        for source, target, weight in zip(names, names[1:], weights, strict=False)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    directory = model / "1"
    directory.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), directory / "model.onnx"
    )
    (model / "config.pbtxt").write_text("max_batch_size: 8 dynamic_batching { }")
    return width


def table(outcome: Soak, seconds: float, megabytes: float) -> Table:
    """The outcome as one line with its date."""
    made = Table(
        title=f"{datetime.now(UTC):%Y-%m-%d}; {this_hardware()}; {seconds:g} s, {megabytes:g} MB, {CLIENTS} clients"
    )
    columns = ("reloads", "requests", "failed", "memory MB", "most", "at the end", "growth", "p50 ms", "p99 ms")
    for column in (*columns, "p50 reloading", "p99 reloading", "reload s"):
        made.add_column(column, justify="right")
    memory = [size / 1e6 for size in outcome.memory]
    made.add_row(
        *(f"{len(outcome.reloads)}", f"{len(outcome.quiet) + len(outcome.busy)}", f"{len(outcome.failures)}"),
        *(f"{memory[0]:.0f}", f"{max(memory):.0f}", f"{memory[-1]:.0f}", f"{outcome.growth:+.1%}"),
        *(f"{1000 * percentile(sorted(times), q):.1f}" for times in (outcome.quiet, outcome.busy) for q in (50, 99)),
        f"{np.mean(outcome.reloads):.2f}",
    )
    return made


async def _wear(server: RunningServer, width: int, seconds: float) -> Soak:
    outcome = Soak()
    now = time.perf_counter()
    begins_at, ends_at = now + _QUIET_SHARE * seconds, now + seconds
    clients = [
        asyncio.create_task(_ask(server.http_port, width, number, begins_at, ends_at, outcome))
        for number in range(CLIENTS)
    ]
    await asyncio.sleep(begins_at - time.perf_counter())
    outcome.memory.append(server.memory_bytes())
    await _reload(server, ends_at, outcome)
    await asyncio.gather(*clients)
    return outcome


async def _ask(port: int, width: int, number: int, begins_at: float, ends_at: float, outcome: Soak) -> None:
    """Ask without a pause, and compare each answer with the right one."""
    row = np.full((1, width), number + 1, np.float32)
    expected: Array = row * np.float32(2**_LAYERS)
    request = http_request("large", "x", row)
    async with asyncio.timeout(ends_at - time.perf_counter() + 60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent_at := time.perf_counter()) < ends_at:
            status, body = await _exchange(reader, writer, request)
            times = outcome.quiet if sent_at < begins_at else outcome.busy
            times.append(time.perf_counter() - sent_at)
            if status != 200 or body[-expected.nbytes :] != expected.tobytes():
                outcome.failures.append(f"a request was answered {status} {body[:200]!r}")
        writer.close()


async def _reload(server: RunningServer, ends_at: float, outcome: Soak) -> None:
    """One reload after the other, as fast as they come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    while (sent_at := time.perf_counter()) < ends_at:
        status, body = await _exchange(reader, writer, _RELOAD)
        outcome.reloads.append(time.perf_counter() - sent_at)
        outcome.memory.append(server.memory_bytes())
        if status != 200:
            outcome.failures.append(f"a reload was answered {status} {body[:200]!r}")
    writer.close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return int(head.split(b" ", 2)[1]), await reader.readexactly(_content_length(head.split(b"\r\n")))


def _content_length(lines: Sequence[bytes]) -> int:
    (length,) = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
    return int(length)


if __name__ == "__main__":
    sys.exit(main())
