"""A model's interface: the names, types and shapes of its inputs and outputs, which no rewrite may move."""

from collections.abc import Sequence

from enginehouse.errors import Unsupported
from enginehouse.tensor import TensorSpec
from optimizer.graph.graph import Graph


def keep_interface(source: Graph, rewritten: Graph) -> Graph:
    """Give the rewritten graph the source's own declarations of inputs and outputs.

    A library may sharpen an open size that it could infer; the declaration is what was promised to callers.

    Raises:
        Unsupported: a name, a type, the order or a fixed size is not the source's.
    """
    for kind, before, after in (
        ("inputs", source.inputs, rewritten.inputs),
        ("outputs", source.outputs, rewritten.outputs),
    ):
        if not _agree(before, after):
            raise Unsupported(f"the {kind} became {_names(after)}; they were {_names(before)}")
    model = rewritten.copy()
    fed = {spec.name for spec in source.inputs}
    inputs = [value for value in source.model.graph.input if value.name in fed]
    weights = [value for value in rewritten.model.graph.input if value.name not in fed]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend([*inputs, *weights])
    model.graph.output.extend(source.model.graph.output)
    return Graph(model)


def _agree(before: Sequence[TensorSpec], after: Sequence[TensorSpec]) -> bool:
    return len(before) == len(after) and all(map(_same, before, after))


def _same(before: TensorSpec, after: TensorSpec) -> bool:
    if before.name != after.name or before.dtype is not after.dtype or len(before.shape) != len(after.shape):
        return False
    return all(old in (-1, new) or new == -1 for old, new in zip(before.shape, after.shape, strict=True))


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs)) or "none"
