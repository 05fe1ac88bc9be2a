"""What it costs to run an engine in a process of its own, and a Python model in its.

    python -m benchmarks.process_engine [--runs 2000] [--rounds 5]

The same ONNX file, in this process and in one of its own, in turns within each round; the table shows the median over
the rounds of each round's percentile. The last column is what the way there and back adds, the copies included.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from enginehouse.engine import Engine
from enginehouse.hardware import this_hardware
from enginehouse.model_config import config_from_text
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.process_engine import ProcessEngine, engine_task
from enginehouse.python_engine import PythonEngine
from enginehouse.tensor import Tensors

ROWS = (1, 16, 1_000, 32_000)
COLUMNS = 16
_PYTHON_MODEL = """
from enginehouse.python_model import Response
class Echo:
    def execute(self, requests):
        return [Response({"y": request.inputs["x"]}) for request in requests]
"""
_PYTHON_CONFIG = """
backend: "python"
max_batch_size: 1000000
input { name: "x" data_type: TYPE_FP32 dims: 16 }
output { name: "y" data_type: TYPE_FP32 dims: 16 }
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one run, in microseconds."""

    p50: float
    p99: float


def main() -> None:
    arguments = _arguments()
    title = f"{this_hardware()}; load {os.getloadavg()[0]:.1f}; {arguments.rounds} rounds of {arguments.runs} runs"
    table = Table(title=title)
    names = ("bytes each way", "in process p50", "own process p50", "p99", "Python model p50", "p99", "added p50, µs")
    for name in names:
        table.add_column(name, justify="right")
    with _engines() as engines:
        for rows in ROWS:
            feeds = {"x": np.zeros((rows, COLUMNS), np.float32)}
            here, isolated, python = measure(
                engines, feeds, max(50, arguments.runs // max(1, rows // 100)), arguments.rounds
            )
            figures = [here.p50, isolated.p50, isolated.p99, python.p50, python.p99, isolated.p50 - here.p50]
            table.add_row(f"{feeds['x'].nbytes:,}", *(f"{figure:,.0f}" for figure in figures))
    Console(width=120).print(table)


def measure(engines: Sequence[Engine], feeds: Tensors, runs: int, rounds: int) -> list[Latency]:
    """Time each engine in turns; the median over the rounds."""
    found: list[list[Latency]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, latencies in zip(engines, found, strict=True):
            latencies.append(_time(engine, feeds, runs))
    return [
        Latency(statistics.median(one.p50 for one in latencies), statistics.median(one.p99 for one in latencies))
        for latencies in found
    ]


def _time(engine: Engine, feeds: Tensors, runs: int) -> Latency:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        engine.run(feeds)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return Latency(float(p50), float(p99))


@contextmanager
def _engines() -> Iterator[list[Engine]]:
    """In process, in a process of its own, and a Python model; all of them answer what they are given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_identity())
        script = Path(folder) / "model.py"
        script.write_text(_PYTHON_MODEL)
        engines: list[Engine] = [
            OnnxRuntimeEngine(path),
            ProcessEngine(engine_task("identity", path, "onnxruntime_onnx", 1, CPU_PROVIDER)),
            PythonEngine(config_from_text(_PYTHON_CONFIG, "echo"), script, 0, 1, False),
        ]
        try:
            yield engines
        finally:
            for engine in engines:
                engine.close()


def _identity() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", COLUMNS]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="runs of each engine and round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
