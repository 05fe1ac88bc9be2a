"""Twice as many requests as a server can answer: what still arrives in time, and how fast the rest is refused.

    python -m benchmarks.overload [--seconds 60] [--model digits|ten_ms|digits_by_row] [--plain]

Two models whose engine is what is overloaded: the digits CNN, sixteen rows a request, and one that takes 10 ms. And one
where it is the server: the digits CNN row by row, which computes for a fraction of the time that a request costs.

The capacity is measured in the same run, by a closed loop at its best concurrency whose p99 stays inside the deadline;
then Poisson arrivals at 0.8 and at 2 times of it. As the pace of a machine that others use drifts, the capacity is
measured again behind each load, and the load is compared with the mean of before and behind. With `--plain` the server
has an unbounded queue and no deadline, as servers come: the collapse that `slo_ms` avoids. Server and load share the
machine, of which the load keeps to one core.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, http_load, http_request
from benchmarks.open_loop import Outcome, open_load, percentile
from benchmarks.running_server import RunningServer, running_server
from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.hardware import this_hardware
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine

DIGITS = Path(__file__).parent.parent / "examples" / "digits"
DEADLINE_SECONDS = 0.1
_CONCURRENCIES = (4, 16, 32, 64)
_WARM_UP_SECONDS = 3.0
_CAPACITY_SECONDS = 5.0
# The load and the server's loop need a core of their own, or each arrival stops a thread that others wait for.
_ENGINE_THREADS = 1
# A batch of sixteen requests: with few, a queue at 0.8 of its capacity takes three and four times the batch time at its
# 99th percentile, whoever serves it.
_TEN_MS_BATCH = 16
_DIGITS_ROWS = 16
_DIGITS_BATCH = 256
# Its matrix fits into a core's own cache. One of 1,024 comes out of a cache that the host's other tenants share: twelve
# layers of it took from 4.1 to 5.6 ms within minutes, alone.
_WIDTH = 384


@dataclass(frozen=True)
class Subject:
    """A model under test, and what one request asks of it."""

    name: str
    path: Path
    rows: Array
    max_batch: int


@dataclass(frozen=True)
class Line:
    """One load as the table shows it.

    Attributes:
        capacity: the mean of before and behind it, in requests per second.
    """

    factor: float
    capacity: float
    outcome: Outcome
    memory_before: int
    memory_after: int


def main() -> None:
    arguments = _arguments()
    table = Table(title=f"{this_hardware()}; deadline {1000 * DEADLINE_SECONDS:g} ms, {arguments.seconds:g} s a load")
    for column in ("model", "server", "capacity/s", "load", "goodput", "of capacity", "refused", "refusal p99 ms"):
        table.add_column(column, justify="right")
    for column in ("p50 ms", "p99 ms", "batch ms", "memory MB"):
        table.add_column(column, justify="right")
    for name in [arguments.model] if arguments.model else list(SUBJECTS):
        with tempfile.TemporaryDirectory() as folder:
            _measure(name, Path(folder), arguments, table)
    Console(width=150).print(table)


def _measure(label: str, folder: Path, arguments: argparse.Namespace, table: Table) -> None:
    subject, repository = SUBJECTS[label](folder), folder / "models"
    engine = OnnxRuntimeEngine(subject.path, _ENGINE_THREADS)
    batch_ms = 1000 * batch_seconds(engine, subject.rows, subject.max_batch)
    name = engine.inputs[0].name
    request = http_request(subject.name, name, subject.rows)
    publish(subject, repository, is_plain=arguments.plain)
    with running_server(repository) as server, _on_one_core():
        concurrency, before = _best_concurrency(server, subject, name)
        # So that the first load finds the server as the second does: with memory for as many connections.
        open_load(server.http_port, request, 2 * before, _WARM_UP_SECONDS, seed=1)
        for factor in (0.8, 2.0):
            memory = server.memory_bytes()
            outcome = open_load(server.http_port, request, factor * before, arguments.seconds, seed=7)
            memory_after = server.memory_bytes()
            behind = _closed_loop(server, subject, name, concurrency).requests_per_second
            line = Line(factor, (before + behind) / 2, outcome, memory, memory_after)
            table.add_row(label, "plain" if arguments.plain else "slo", *_cells(line, batch_ms))
            before = behind


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep the load, which is this process, from following the server from core to core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _cells(line: Line, batch_ms: float) -> list[str]:
    outcome, capacity = line.outcome, line.capacity
    goodput = outcome.goodput(DEADLINE_SECONDS)
    answered, refused = outcome.answered_ms(), outcome.refused_ms()
    return [
        f"{capacity:.0f}",
        f"{line.factor:g}x",
        f"{goodput:.0f}",
        f"{goodput / capacity:.1%}",
        f"{len(refused) / len(outcome):.1%}" + (f" (+{outcome.unanswered} lost)" if outcome.unanswered else ""),
        f"{percentile(refused, 99):.1f}",
        f"{percentile(answered, 50):.1f}",
        f"{percentile(answered, 99):.1f}",
        f"{batch_ms:.1f}",
        f"{line.memory_before / 1e6:.0f} to {line.memory_after / 1e6:.0f}",
    ]


def _best_concurrency(server: RunningServer, subject: Subject, name: str) -> tuple[int, float]:
    """The concurrency at which most is answered with a p99 inside the deadline, and how much a second that is."""
    loads = {each: _closed_loop(server, subject, name, each) for each in _CONCURRENCIES}
    rates = {
        each: load.requests_per_second
        for each, load in loads.items()
        if load.percentile_ms(99) <= 1000 * DEADLINE_SECONDS
    }
    best = max(rates, key=rates.__getitem__)
    return best, rates[best]


def _closed_loop(server: RunningServer, subject: Subject, name: str, concurrency: int) -> Load:
    return http_load(
        server.http_port, subject.name, name, subject.rows, concurrency, _CAPACITY_SECONDS, may_refuse=True
    )


def batch_seconds(engine: Engine, sample: Array, rows: int) -> float:
    """The median time of a full batch, alone."""
    feeds = {engine.inputs[0].name: np.repeat(sample, rows // len(sample), axis=0)}
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        engine.run(feeds)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def publish(subject: Subject, repository: Path, *, is_plain: bool) -> None:
    """A repository with the one model, with or without a deadline of its own."""
    target = repository / subject.name / "1" / "model.onnx"
    target.parent.mkdir(parents=True)
    target.write_bytes(subject.path.read_bytes())
    text = f"max_batch_size: {subject.max_batch}\n"
    text += f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{_ENGINE_THREADS}" }} }}\n'
    if is_plain:
        text += "dynamic_batching { default_queue_policy { max_queue_size: 0 } }\n"
    else:
        text += "dynamic_batching { }\n"
        text += f'parameters {{ key: "slo_ms" value {{ string_value: "{1000 * DEADLINE_SECONDS:g}" }} }}\n'
    (repository / subject.name / "config.pbtxt").write_text(text)


def digits(_folder: Path) -> Subject:
    """The trained CNN, sixteen rows a request."""
    return Subject("digits", DIGITS / "digits.onnx", _pixels(_DIGITS_ROWS), _DIGITS_BATCH)


def digits_by_row(_folder: Path) -> Subject:
    """The trained CNN, one row a request: to read one and to answer it takes the server longer than to compute it."""
    return Subject("digits", DIGITS / "digits.onnx", _pixels(1), 32)


def _pixels(rows: int) -> Array:
    with np.load(DIGITS / "digits.npz", allow_pickle=False) as data:
        return np.asarray(data["test/pixels"][:rows])


def ten_ms(folder: Path) -> Subject:
    """A chain of matrix products, as many as take 10 ms for a full batch on this machine."""
    row = np.random.default_rng(0).standard_normal((1, _WIDTH), dtype=np.float32)
    path = folder / "ten_ms.onnx"
    layers = 32
    for _ in range(3):
        onnx.save(chain(layers), path)
        engine = OnnxRuntimeEngine(path, _ENGINE_THREADS)
        layers = max(1, round(layers * 0.010 / batch_seconds(engine, row, _TEN_MS_BATCH)))
        engine.close()
    return Subject("ten_ms", path, row, _TEN_MS_BATCH)


def chain(layers: int) -> onnx.ModelProto:
    """`y = tanh(... tanh(x W) ... W)` with one random W: the weights decide speed only."""
    weight = np.random.default_rng(1).standard_normal((_WIDTH, _WIDTH), dtype=np.float32) / np.float32(_WIDTH**0.5)
    nodes = []
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", "w"], [f"p{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"p{layer}"], [f"h{layer + 1}"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["batch", _WIDTH])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["batch", _WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"digits": digits, "ten_ms": ten_ms, "digits_by_row": digits_by_row}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of each load")
    parser.add_argument("--model", choices=SUBJECTS, help="only this model")
    parser.add_argument("--plain", action="store_true", help="a server with an unbounded queue and no deadline")
    return parser.parse_args()


if __name__ == "__main__":
    main()
