"""What OpenVINO's precisions and INT8 arrangements gain over FP32 in ONNX Runtime: the table of `docs/engines.md`.

    python -m benchmarks.engines_table [--seconds 40] [--threads N] [--keep FOLDER]

A ResNet-50 and a 6-layer BERT (384 hidden, 128 tokens), both with random weights: they decide speed only. All engines
of one model run interleaved; ratios are medians over the rounds.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bert import build_bert
from benchmarks.resnet50 import build_resnet50
from enginehouse.dtype import Array
from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.tensor import Tensors
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.evaluate.benchmark import SOURCE, Schedule, benchmark
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.quantize.calibration import calibrate
from optimizer.quantize.int8 import QuantizationPlan, plan_int8, quantize_int8
from optimizer.trial import EngineName, Hint, Scheme

BATCH_SIZES = (1, 8)
TOKENS = 128


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model and one batch of each size for it."""

    name: str
    graph: Graph
    feeds: Mapping[int, Tensors]


@dataclass(frozen=True, slots=True)
class _Variant:
    """One row of the table; without a scheme the graph stays FP32."""

    engine: EngineName
    hint: Hint = "f32"
    scheme: Scheme | None = None

    def __str__(self) -> str:
        library = "ONNX Runtime" if self.engine == "onnxruntime" else "OpenVINO"
        precision = f"INT8 {self.scheme.upper()}" if self.scheme else {"f32": "FP32"}.get(self.hint, self.hint.upper())
        return f"{library} {precision}" + (f", rest {self.hint.upper()}" if self.scheme and self.hint != "f32" else "")


VARIANTS = (
    _Variant("onnxruntime", scheme="u8s8"),
    _Variant("openvino"),
    _Variant("openvino", "bf16"),
    _Variant("openvino", scheme="u8s8"),
    _Variant("openvino", scheme="s8s8"),
    _Variant("openvino", "bf16", "s8s8"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40, help="per model and batch size, shared by all engines")
    parser.add_argument("--threads", type=int, default=threads_per_instance(1), help="as the server's, by default")
    parser.add_argument("--keep", type=Path, help="write the ONNX files here and leave them")
    arguments = parser.parse_args()
    print("| model | engine | batch 1 ms | batch 8 ms | ratio at 1 | ratio at 8 |")
    print("|---|---|---:|---:|---:|---:|")
    for subject in (_resnet50(), _bert()):
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.keep or Path(scratch)
            print("\n".join(_rows(subject, folder, arguments.seconds, arguments.threads)), flush=True)
    print(f"\n{this_hardware()}; {arguments.threads} threads")


def _resnet50() -> _Subject:
    graph = named_graph(Graph(build_resnet50()))
    spec = graph.inputs[0]
    random = np.random.default_rng(0)
    feeds = {rows: {spec.name: _images(random, rows, spec.shape[1:])} for rows in BATCH_SIZES}
    return _Subject("ResNet-50", graph, feeds)


def _images(random: np.random.Generator, rows: int, shape: tuple[int, ...]) -> Array:
    return random.standard_normal((rows, *shape)).astype(np.float32)


def _bert() -> _Subject:
    random = np.random.default_rng(0)
    feeds = {rows: {"tokens": random.integers(0, 30522, (rows, TOKENS))} for rows in BATCH_SIZES}
    return _Subject("BERT", named_graph(Graph(build_bert())), feeds)


def _rows(subject: _Subject, folder: Path, seconds: float, threads: int) -> list[str]:
    artifacts = {SOURCE: Artifact(_file(subject, None, "onnxruntime", folder), "onnxruntime")}
    for variant in VARIANTS:
        path = _file(subject, variant.scheme, variant.engine, folder)
        artifacts[str(variant)] = Artifact(path, variant.engine, variant.hint)
    engines = {name: open_artifact(artifact, threads) for name, artifact in artifacts.items()}
    result = benchmark(engines, subject.feeds, Schedule(BATCH_SIZES, seconds, seed=0))
    for engine in engines.values():
        engine.close()
    rows = []
    for name in engines:
        one, eight = (point.median_ms for point in result.latency(name))
        ratios = [result.speedup(name, [batch]).median for batch in BATCH_SIZES]
        shown = "ONNX Runtime FP32" if name == SOURCE else name
        title = subject.name if name == SOURCE else ""
        rows.append(f"| {title} | {shown} | {one:.1f} | {eight:.1f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |")
    return rows


def _file(subject: _Subject, scheme: Scheme | None, engine: EngineName, folder: Path) -> Path:
    """Write the float graph, or what one scheme makes of it for an engine."""
    suffix = f"{scheme}.{engine}" if scheme else "fp32"
    path = folder / f"{subject.name}.{suffix}.onnx"
    if path.exists():
        return path
    graph = subject.graph if scheme is None else _quantized(subject, scheme, engine, folder)
    graph.save(path)
    return path


def _quantized(subject: _Subject, scheme: Scheme, engine: EngineName, folder: Path) -> Graph:
    plan = plan_int8(subject.graph, engine=engine)
    assert isinstance(plan, QuantizationPlan), plan
    table = calibrate(subject.graph, plan.tensors, lambda: [subject.feeds[8]], 8, folder)
    found = quantize_int8(subject.graph, plan, table.ranges(), scheme)
    assert isinstance(found, Graph), found
    return found


if __name__ == "__main__":
    main()
