"""Served throughput over the in-process loop of the same engine at its best batch.

    python -m benchmarks.served_vs_raw [--concurrency 32] [--rounds 5] [--seconds 8] [--model digits|resnet50]

Server, engine and load share the machine. Each round measures the loop, HTTP and gRPC one after the other; the
ratio of a round is taken within it, and the table shows medians over the rounds.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, grpc_load, http_load
from benchmarks.resnet50 import build_resnet50
from benchmarks.running_server import running_server
from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine

ROOT = Path(__file__).parent.parent
BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Subject:
    """A model under test, and the largest batch that the server may form of it."""

    name: str
    model: bytes
    row: Array
    max_batch_size: int


@dataclass
class Round:
    """Rows per second of one round, and what the clients saw."""

    loop: float
    http: Load
    grpc: Load


def main() -> None:
    arguments = _arguments()
    subjects = {"digits": _digits, "resnet50": _resnet50}
    names = [arguments.model] if arguments.model else list(subjects)
    table = Table(title=f"{this_hardware()}; concurrency {arguments.concurrency}, {arguments.rounds} rounds")
    for column in (
        "model",
        "best batch",
        "loop rows/s",
        "transport",
        "served rows/s",
        "p50 ms",
        "p99 ms",
        "served / loop",
    ):
        table.add_column(column, justify="left" if column in ("model", "transport") else "right")
    for name in names:
        _measure(subjects[name](), arguments, table)
    Console(width=110).print(table)


def _measure(subject: Subject, arguments: argparse.Namespace, table: Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _publish(Path(folder), subject)
        engine = OnnxRuntimeEngine(path, threads_per_instance(1))
        with running_server(Path(folder)) as server:
            batch = _best_batch(engine, subject)
            send = (subject.name, engine.inputs[0].name, subject.row, arguments.concurrency, arguments.seconds)
            rounds = [
                Round(
                    _loop_rate(engine, subject, batch, arguments.seconds),
                    http_load(server.http_port, *send),
                    grpc_load(server.grpc_port, *send),
                )
                for _ in range(arguments.rounds)
            ]
    loop = statistics.median(entry.loop for entry in rounds)
    for transport in ("http", "grpc"):
        loads: list[Load] = [getattr(entry, transport) for entry in rounds]
        ratio = statistics.median(
            load.requests_per_second / entry.loop for load, entry in zip(loads, rounds, strict=True)
        )
        table.add_row(
            subject.name,
            str(batch),
            f"{loop:.1f}",
            transport,
            f"{statistics.median(load.requests_per_second for load in loads):.1f}",
            f"{statistics.median(load.percentile_ms(50) for load in loads):.1f}",
            f"{statistics.median(load.percentile_ms(99) for load in loads):.1f}",
            f"{ratio:.3f}",
        )


def _best_batch(engine: Engine, subject: Subject) -> int:
    sizes = [size for size in BATCHES if size <= subject.max_batch_size]
    return max(sizes, key=lambda size: _loop_rate(engine, subject, size, seconds=2.0))


def _loop_rate(engine: Engine, subject: Subject, batch: int, seconds: float) -> float:
    """Rows per second of calling the engine again and again, nothing else."""
    feeds = {engine.inputs[0].name: np.repeat(subject.row, batch, axis=0)}
    engine.run(feeds)
    count = 0
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        engine.run(feeds)
        count += batch
    return count / elapsed


def _publish(repository: Path, subject: Subject) -> Path:
    """A repository with the one model, batched dynamically."""
    path = repository / subject.name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(subject.model)
    config = f"max_batch_size: {subject.max_batch_size}\ndynamic_batching {{ }}\n"
    (repository / subject.name / "config.pbtxt").write_text(config)
    return path


def _digits() -> Subject:
    model = (ROOT / "examples" / "digits" / "digits.onnx").read_bytes()
    with np.load(ROOT / "examples" / "digits" / "digits.npz", allow_pickle=False) as data:
        return Subject("digits", model, data["test/pixels"][:1], max_batch_size=32)


def _resnet50() -> Subject:
    row = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    return Subject("resnet50", build_resnet50().SerializeToString(), row, max_batch_size=8)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concurrency", type=int, default=32, help="requests under way at once")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds per measurement")
    parser.add_argument("--model", choices=("digits", "resnet50"), help="only this model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
