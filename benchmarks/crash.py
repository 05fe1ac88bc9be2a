"""`kill -9` of a model's own process, again and again: what its neighbour on the same server notices.

    python -m benchmarks.crash [--seconds 60] [--every 2] [--neighbour-rate 200] [--victim-rate 100] [--instances 1]

One server, two models, a steady open-loop load on each: the victim runs in processes of its own
(`isolation: process`), of which one is killed every so often, the neighbour in the server. A request of the neighbour
is near a kill if it was due within a second after one, or within the last second before the process was back, when
that starts and opens its engine; all others are calm. Both kinds come in turn, in the same minute. A process that ends
is started again ever later, so that with one instance there are fewer kills than the time would allow: only what lives
can be killed.

Server, loads and processes share the machine.
"""

import argparse
import json
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from benchmarks.load import http_request
from benchmarks.open_loop import Outcome, open_load, percentile
from benchmarks.running_server import RunningServer, running_server
from enginehouse.hardware import this_hardware

_NEAR_SECONDS = 1.0
_LOOK_SECONDS = 0.005
_COLUMNS = 64
_VICTIM, _NEIGHBOUR = "victim", "neighbour"
# Products of small matrices in a row: a millisecond or so, and little.
_STEPS = {_VICTIM: 400, _NEIGHBOUR: 4}
_CONFIG = """
max_batch_size: 8
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: {count} }} ]
parameters {{ key: "isolation" value {{ string_value: "{isolation}" }} }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
"""


@dataclass(slots=True)
class Kills:
    """When processes were killed, and when the next one was there, in seconds of a monotonic clock."""

    killed: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)

    def disturbs(self, due: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which moments are near a kill or a start."""
        near = np.zeros(len(due), np.bool_)
        for begun in self.killed:
            near |= (due >= begun) & (due < begun + _NEAR_SECONDS)
        for ended in self.back:
            near |= (due >= ended - _NEAR_SECONDS) & (due < ended)
        return near


@dataclass(slots=True, frozen=True)
class Result:
    """What was measured.

    Attributes:
        outcomes: by model, as the clients saw it.
        counted: by model, how many requests the server says went well and how many failed.
    """

    kills: Kills
    outcomes: dict[str, Outcome]
    counted: dict[str, tuple[int, int]]


def main() -> None:
    arguments = _arguments()
    rates = {_VICTIM: arguments.victim_rate, _NEIGHBOUR: arguments.neighbour_rate}
    result = measure(arguments.seconds, arguments.every, rates, arguments.instances)
    kills = result.kills
    console = Console(width=120)
    console.print(
        f"{this_hardware()}; {len(kills.killed)} kills and {len(kills.back)} starts in {arguments.seconds:g} s"
    )
    console.print(_latencies(kills, result.outcomes[_NEIGHBOUR]))
    console.print(_answers(result))


def measure(seconds: float, every: float, rates: dict[str, float], instances: int) -> Result:
    """Load both models for so long, and kill meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), instances)
        with running_server(Path(folder)) as server, ProcessPoolExecutor(2, get_context("spawn")) as pool:
            row = np.ones((1, _COLUMNS), np.float32)
            loads: dict[str, Future[Outcome]] = {
                name: pool.submit(open_load, server.http_port, http_request(name, "x", row), rate, seconds, 7)
                for name, rate in rates.items()
            }
            kills = kill_every(server.pid, every, list(loads.values()))
            outcomes = {name: load.result() for name, load in loads.items()}
            return Result(kills, outcomes, {name: counted(server, name) for name in outcomes})


def kill_every(server: int, every: float, loads: Sequence["Future[Outcome]"]) -> Kills:
    """Kill the victim's oldest process every so often, as long as there is load; note when new ones are there."""
    kills = Kills()
    known = set(processes(server))
    next_kill = time.monotonic() + every
    while not all(load.done() for load in loads):
        now = time.monotonic()
        living = processes(server)
        new = [pid for pid in living if pid not in known and has_engine(pid)]
        kills.back += [now] * len(new)
        known.update(new)
        victims = [pid for pid in living if pid in known]
        if now >= next_kill and victims:
            os.kill(victims[0], signal.SIGKILL)
            known.discard(victims[0])
            kills.killed.append(time.monotonic())
            next_kill = now + every
        time.sleep(_LOOK_SECONDS)
    return kills


def processes(server: int) -> list[int]:
    """The victim's processes that live, oldest first."""
    return sorted(pid for pid in _children(server) if _is_victim(pid))


def has_engine(pid: int) -> bool:
    """Whether a process has opened its engine: it has read what it computes with, and sleeps until it is asked."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "S" and "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def counted(server: RunningServer, model: str) -> tuple[int, int]:
    """How many requests of a model went well and how many failed, as the server counts."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/stats"
    with urllib.request.urlopen(url) as answer:
        (found,) = json.load(answer)["model_stats"]
    return int(found["inference_stats"]["success"]["count"]), int(found["inference_stats"]["fail"]["count"])


def publish(repository: Path, instances: int) -> None:
    """Both models: `y = x`, the long way and the short one."""
    for name, isolation, count in ((_VICTIM, "process", instances), (_NEIGHBOUR, "none", 1)):
        version = repository / name / "1"
        version.mkdir(parents=True)
        onnx.save(_model(_STEPS[name]), version / "model.onnx")
        (repository / name / "config.pbtxt").write_text(_CONFIG.format(count=count, isolation=isolation))


def _model(steps: int) -> onnx.ModelProto:
    names = ["x", *(f"t{number}" for number in range(steps)), "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, "unit"], [b]) for a, b in pairwise(names)],
        "steps",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", _COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", _COLUMNS])],
        [helper.make_tensor("unit", TensorProto.FLOAT, [_COLUMNS] * 2, np.eye(_COLUMNS, dtype=np.float32).ravel())],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found = (task / "children").read_text().split()
        except OSError:
            continue
        yield from map(int, found)


def _is_victim(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[3:5] == [b"enginehouse.processes.process_worker", _VICTIM.encode()]


def _latencies(kills: Kills, outcome: Outcome) -> Table:
    """The neighbour's latencies near kills and away from them."""
    table = Table(title=f"the neighbour: near ({_NEAR_SECONDS:g} s) a kill or a start, and not")
    for column in ("due", "requests", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right")
    near = kills.disturbs(outcome.due)
    p99 = {}
    for name, which in (("calm", ~near), ("near", near)):
        found = np.sort(1000 * (outcome.done - outcome.due)[which & (outcome.status == 200)]).tolist()
        p99[name] = percentile(found, 99)
        worst = found[-1] if found else float("nan")
        table.add_row(name, str(len(found)), *(f"{one:.1f}" for one in (percentile(found, 50), p99[name], worst)))
    table.caption = f"p99 near over p99 calm: {p99['near'] / p99['calm']:.2f}"
    return table


def _answers(result: Result) -> Table:
    """What became of every request of each model, and whether each was answered once."""
    table = Table(title="answers")
    for column in ("model", "asked", "200", "500", "503", "others", "none", "each answered once"):
        table.add_column(column, justify="right")
    for name, outcome in result.outcomes.items():
        known = [int(np.sum(outcome.status == status)) for status in (200, 500, 503)]
        others = len(outcome) - sum(known) - outcome.unanswered
        row = [len(outcome), *known, others, outcome.unanswered]
        table.add_row(name, *map(str, row), is_answered_once(outcome, result.counted[name]))
    return table


def is_answered_once(outcome: Outcome, server_counted: tuple[int, int]) -> str:
    """Whether client and server agree on how many requests went well and how many failed, and none is missing."""
    well = int(np.sum(outcome.status == 200))
    failed = len(outcome) - well - outcome.unanswered
    if not outcome.unanswered and (well, failed) == server_counted:
        return "yes"
    return f"NO: the server counts {server_counted[0]} and {server_counted[1]} failures"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one kill to the next")
    parser.add_argument("--neighbour-rate", type=float, default=200.0, help="requests of the neighbour per second")
    parser.add_argument("--victim-rate", type=float, default=100.0, help="requests of the victim per second")
    parser.add_argument("--instances", type=int, default=1, help="processes of the victim; the oldest is killed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
