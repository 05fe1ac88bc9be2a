"""How far a quantized graph's outputs are from the float graph's, and the verdict on a repair that this gives."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.repair import Quantize, Repaired


@contextmanager
def opened(graph: Graph, optimize: bool) -> Iterator[OnnxRuntimeEngine]:
    """Open a graph on all cores; without `optimize` each node is computed as it is written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        graph.save(path)
        engine = OnnxRuntimeEngine(path, threads_per_instance(1), optimize=optimize)
    try:
        yield engine
    finally:
        engine.close()


def output_error(reference: Graph, quantized: Graph, feeds: Sequence[Tensors]) -> float:
    """Squared difference of all float outputs as a share of the reference's squared length; inf where not finite.

    Raises:
        EngineFailed: one of the graphs cannot be opened or run.
    """
    wrong = length = 0.0
    with opened(reference, optimize=True) as right, opened(quantized, optimize=True) as other:
        for feed in feeds:
            found = other.run(feed)
            for name, array in right.run(feed).items():
                if array.dtype.kind == "f":
                    expected = array.astype(np.float64)
                    wrong += float(np.square(expected - found[name]).sum())
                    length += float(np.square(expected).sum())
    if wrong == 0:
        return 0.0
    return wrong / length if length > 0 and np.isfinite(wrong) else float("inf")


def judged(
    reference: Graph, before: Graph, repaired: Graph, after: Graph, feeds: Sequence[Tensors], detail: str
) -> Repaired | Declined:
    """Keep the repair only if `after`, its quantized form, is nearer to the reference than `before` was."""
    old, new = output_error(reference, before, feeds), output_error(reference, after, feeds)
    change = f"output error {old:.3g} -> {new:.3g}"
    return Repaired(repaired, f"{detail}, {change}") if new < old else Declined(f"{detail} gain nothing: {change}")


def quantized_and_judged(
    reference: Graph, graph: Graph, repaired: Graph, quantize: Quantize, feeds: Sequence[Tensors], detail: str
) -> Repaired | Declined:
    """Quantize the graph with and without the repair, and judge."""
    before = quantize(graph)
    if isinstance(before, Declined):
        return before
    after = quantize(repaired)
    if isinstance(after, Declined):
        return after
    return judged(reference, before, repaired, after, feeds, detail)
