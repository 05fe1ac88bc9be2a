"""How far a quantized graph's outputs are from the float graph's, and the verdict on a repair that this gives."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.hardware import threads_per_instance
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.repair import Quantize, Repaired

# A repair whose gain is smaller has fitted the rows and not the model.
LEAST_GAIN = 0.02


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


def output_errors(reference: Graph, others: Sequence[Graph], feeds: Sequence[Tensors]) -> list[float]:
    """Squared difference of all float outputs as a share of the reference's squared length; inf where not finite.

    Raises:
        EngineFailed: one of the graphs cannot be opened or run.
    """
    wrong, length = np.zeros(len(others)), 0.0
    with ExitStack() as stack:
        right = stack.enter_context(opened(reference, optimize=True))
        engines = [stack.enter_context(opened(other, optimize=True)) for other in others]
        for feed in feeds:
            expected = {name: array for name, array in right.run(feed).items() if array.dtype.kind == "f"}
            length += sum(_squared(array) for array in expected.values())
            for position, engine in enumerate(engines):
                found = engine.run(feed)
                wrong[position] += sum(_squared(array, found[name]) for name, array in expected.items())
    return [_share(float(each), length) for each in wrong]


def judged(
    reference: Graph,
    before: Graph,
    repaired: Graph,
    after: Graph,
    feeds: Sequence[Tensors],
    detail: str,
    least: float = LEAST_GAIN,
) -> Repaired | Declined:
    """Keep the repair only if its quantized form `after` has less error than `before`, by at least a share of it."""
    old, new = output_errors(reference, [before, after], feeds)
    change = f"output error {old:.3g} -> {new:.3g}"
    if new < old * (1 - least):
        return Repaired(repaired, f"{detail}, {change}")
    return Declined(f"{detail} gain too little: {change}")


def quantized_and_judged(
    reference: Graph,
    graph: Graph,
    repaired: Graph,
    quantize: Quantize,
    feeds: Sequence[Tensors],
    detail: str,
    least: float = LEAST_GAIN,
) -> Repaired | Declined:
    """Quantize the graph with and without the repair, and judge."""
    before = quantize(graph)
    if isinstance(before, Declined):
        return before
    after = quantize(repaired)
    if isinstance(after, Declined):
        return after
    return judged(reference, before, repaired, after, feeds, detail, least)


def _squared(array: Array, other: Array | float = 0.0) -> float:
    return float(np.square(array.astype(np.float64) - other).sum())


def _share(wrong: float, length: float) -> float:
    if wrong == 0:
        return 0.0
    return wrong / length if length > 0 and np.isfinite(wrong) else float("inf")
