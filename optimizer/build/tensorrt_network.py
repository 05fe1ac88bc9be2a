"""A TensorRT network and the parser that fills it from a graph, with the shapes that its plan shall take.

The network is strongly typed: it computes each node in the types that the graph says, and no builder flag lowers them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.tensor import TensorSpec, shape_fits
from enginehouse.tensorrt_library import TensorRTLibrary, errors_in, import_library, listening_log
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph

# Least, best and most: the plan takes every shape between, and is tuned for the one in the middle.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_BOUNDS = ("least", "best", "most")


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is being made. The parser owns the weights, so it must live as long as the network."""

    module: Any
    log: Any
    builder: Any
    definition: Any
    parser: Any


def empty_network(library: TensorRTLibrary, purpose: str) -> Network:
    """Make a network with nothing in it.

    Raises:
        MissingExtra: the library is not installed.
        EngineFailed: the library makes no builder here, as `tensorrt` without a GPU.
    """
    module = import_library(library, purpose)
    log = listening_log(module)
    try:
        builder = module.Builder(log)
    except (TypeError, RuntimeError) as problem:  # what its bindings make of a null pointer
        raise EngineFailed(
            f"{library.title} makes no builder on this machine: {errors_in(log)}. Build where a GPU of the target is."
        ) from problem
    # Newer releases know no other networks and may drop the flag.
    strongly_typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    return Network(module, log, builder, definition, module.OnnxParser(definition, log))


def saved_graph(graph: Graph, folder: Path) -> Path:
    """Write a graph where a parser can read it, every node with a name, because nodes are reported by name."""
    path = folder / "model.onnx"
    named_graph(graph).save(path)
    return path


def profile_shapes(graph: Graph, batch: tuple[int, int, int], shapes: Mapping[str, Shapes]) -> dict[str, Shapes]:
    """The shapes of every input: those given in `shapes`, for others the open first dimension is the batch.

    Raises:
        InvalidInput: shapes that do not fit the graph, or an open dimension that nothing was said of.
    """
    unknown = [name for name in shapes if name not in {spec.name for spec in graph.inputs}]
    if unknown:
        names = ", ".join(spec.name for spec in graph.inputs)
        raise InvalidInput(f"shapes are given for '{unknown[0]}', which is no input of the model; it has {names}.")
    found = {spec.name: shapes.get(spec.name) or _batched(spec, batch) for spec in graph.inputs}
    for spec in graph.inputs:
        _check(spec, found[spec.name])
    return found


def observed_shapes(
    graph: Graph, batch: tuple[int, int, int], seen: Iterable[Mapping[str, tuple[int, ...]]]
) -> dict[str, Shapes]:
    """Bounds for the inputs of which more than the batch is open: least, median and most of the shapes seen in data."""
    shapes = list(seen)
    found: dict[str, Shapes] = {}
    for spec in graph.inputs:
        rows = [one[spec.name][1:] for one in shapes if spec.name in one]
        if -1 not in spec.shape[1:] or not rows:
            continue
        ordered = [sorted(sizes) for sizes in zip(*rows, strict=True)]
        bounds = ([sizes[0], sizes[len(sizes) // 2], sizes[-1]] for sizes in ordered)
        least, best, most = zip(*bounds, strict=True)
        fixed = spec.shape[0]
        low, middle, high = batch if fixed == -1 else (fixed, fixed, fixed)
        found[spec.name] = ((low, *least), (middle, *best), (high, *most))
    return found


def _batched(spec: TensorSpec, batch: tuple[int, int, int]) -> Shapes:
    if -1 in spec.shape[1:]:
        raise InvalidInput(
            f"input '{spec.name}' is {list(spec.shape)}: more than its batch is open, and a plan must know how far. "
            f"Give its least, best and most shape, such as {list(_example(spec, batch))}."
        )
    least, best, most = ((size, *spec.shape[1:]) if spec.shape[:1] == (-1,) else spec.shape for size in batch)
    return least, best, most


def _example(spec: TensorSpec, batch: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    lengths = (1, 128, 512)
    return tuple(
        (rows, *(length if size == -1 else size for size in spec.shape[1:]))
        for rows, length in zip(batch, lengths, strict=True)
    )


def _check(spec: TensorSpec, shapes: Shapes) -> None:
    for bound, shape in zip(_BOUNDS, shapes, strict=True):
        if not shape_fits(shape, spec.shape) or min(shape, default=1) < 1:
            raise InvalidInput(
                f"the {bound} shape of input '{spec.name}' is {list(shape)}; the model takes {list(spec.shape)}, "
                "where -1 is any size from 1."
            )
    least, best, most = shapes
    if not all(low <= middle <= high for low, middle, high in zip(least, best, most, strict=True)):
        raise InvalidInput(
            f"the shapes of input '{spec.name}' are {list(least)}, {list(best)}, {list(most)}; "
            "no dimension may shrink from least to best to most."
        )
