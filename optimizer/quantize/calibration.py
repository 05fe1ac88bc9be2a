"""Observe the range of tensors while real rows pass: one running minimum and maximum each, and nothing else.

The graph itself reduces every observed tensor to two numbers (`ReduceMin`, `ReduceMax`), so that memory stays the same
however many rows come.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph

_MINIMUM, _MAXIMUM = "/calibration_minimum", "/calibration_maximum"


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The range of each observed tensor, with what it was observed on.

    Attributes:
        ranges: lowest and highest value by tensor.
        rows: feeds are counted by the length of their first input.
        model_fingerprint: of the graph that was observed.
        feeds_fingerprint: of all feeds, in order.
    """

    ranges: dict[str, tuple[float, float]]
    rows: int
    model_fingerprint: str
    feeds_fingerprint: str


def calibrate(
    graph: Graph, tensors: Sequence[str], feeds: Iterable[Tensors], workdir: Path, threads: int | None = None
) -> CalibrationTable:
    """Run all feeds once and note the range of each tensor; tensors must be floats that the graph computes or is fed.

    Raises:
        EngineFailed: the model cannot run these feeds.
    """
    path = workdir / "calibration.onnx"
    Graph(_observed_model(graph, tensors)).save(path)
    engine = OnnxRuntimeEngine(path, threads or threads_per_instance(1))
    running = _RunningRanges(tensors)
    digest = hashlib.sha256()
    rows = 0
    for feed in feeds:
        running.update(engine.run(feed))
        rows += _add_to_digest(digest, feed)
    engine.close()
    return CalibrationTable(running.ranges(), rows, graph.fingerprint(), digest.hexdigest())


class _RunningRanges:
    """Two numbers per tensor."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._tensors = list(tensors)
        self._lowest = np.full(len(tensors), np.inf)
        self._highest = np.full(len(tensors), -np.inf)

    def update(self, outputs: Tensors) -> None:
        for position, name in enumerate(self._tensors):
            self._lowest[position] = min(self._lowest[position], float(outputs[name + _MINIMUM]))
            self._highest[position] = max(self._highest[position], float(outputs[name + _MAXIMUM]))

    def ranges(self) -> dict[str, tuple[float, float]]:
        pairs = zip(self._lowest.tolist(), self._highest.tolist(), strict=True)
        return dict(zip(self._tensors, pairs, strict=True))


def _observed_model(graph: Graph, tensors: Sequence[str]) -> ModelProto:
    """The graph with the two reductions as its only outputs."""
    model = graph.copy()
    del model.graph.output[:]
    for name in tensors:
        for operator, suffix in (("ReduceMin", _MINIMUM), ("ReduceMax", _MAXIMUM)):
            model.graph.node.append(helper.make_node(operator, [name], [name + suffix], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(name + suffix, TensorProto.FLOAT, []))
    return model


def _add_to_digest(digest: "hashlib._Hash", feed: Tensors) -> int:
    for name in sorted(feed):
        array = feed[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    first = next(iter(feed.values()))
    return len(first) if first.ndim else 1
