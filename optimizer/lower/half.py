"""FP16 and BF16 by typed casts inside the graph; its inputs and outputs keep their types.

    x -> Conv -> Relu -> Softmax          x -> Cast(half) -> Conv -> Relu -> Cast(fp32) -> Softmax

Layers are lowered, and what lies between two of them follows, so that a chain is cast once at each end. Whatever
`float_rules` does not allow stays FP32: reductions, norms, softmax and their kin by rule, other nodes where the values
seen in calibration would not fit. If and Loop bodies stay FP32 too.
"""

from collections.abc import Collection, Mapping

from onnx import NodeProto, version_converter

from optimizer.graph.declined import Declined
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph
from optimizer.graph.layers import LAYER_OPERATORS
from optimizer.graph.nodes import label
from optimizer.lower.casting import with_casts
from optimizer.lower.float_rules import PASSING_ON, FloatFacts, HalfPrecision, operands, results, why_not

# The first in which every computing operator has a BF16 form, and the file format that goes with it.
_BF16_OPSET = 22
_BF16_IR_VERSION = 10


def lower_to_half(
    graph: Graph,
    precision: HalfPrecision,
    layers: Collection[str] | None,
    ranges: Mapping[str, tuple[float, float]],
) -> Graph | Declined:
    """Lower what may be lowered; the given graph stays as it is.

    Args:
        graph: FP32, or with some layers quantized already; those are left alone.
        precision: what to lower to.
        layers: names of the nodes to lower; None for all that can be, tables of embeddings included.
        ranges: lowest and highest observed value of each FP32 tensor; BF16 needs none.
    """
    if precision == "bf16":
        graph = _with_bf16_operators(graph)
    facts = FloatFacts(graph, precision, ranges)
    lowered = _choose(facts, layers)
    if not lowered:
        return Declined(_reason(facts, layers))
    return with_casts(facts, lowered)


def kept_in_fp32(
    graph: Graph,
    precision: HalfPrecision,
    layers: Collection[str] | None,
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, str]:
    """Say of each computing node that was to be lowered and cannot be, by name, why."""
    facts = FloatFacts(_with_bf16_operators(graph) if precision == "bf16" else graph, precision, ranges)
    wanted = (node for node in facts.graph.model.graph.node if _is_wanted(node, layers, facts))
    reasons = {node.name: why_not(node, facts) for node in wanted}
    return {name: reason for name, reason in reasons.items() if reason}


def _with_bf16_operators(graph: Graph) -> Graph:
    """Raise the opset where ONNX can; where it cannot, the operators that lack BF16 stay FP32."""
    if graph.opset >= _BF16_OPSET or graph.size_bytes > INLINE_LIMIT_BYTES:
        return graph
    try:
        model = version_converter.convert_version(graph.model, _BF16_OPSET)
    except (RuntimeError, ValueError, IndexError):
        return graph
    model.ir_version = max(model.ir_version, _BF16_IR_VERSION)
    return Graph(model)


def _choose(facts: FloatFacts, layers: Collection[str] | None) -> frozenset[int]:
    """Positions of the nodes to lower: the wanted ones, and those that all their inputs or readers carry along."""
    nodes = facts.graph.model.graph.node
    chosen: set[int] = set()
    half: set[str] = set()
    for position, node in enumerate(nodes):
        if not (_is_wanted(node, layers, facts) or _is_between(node, half, facts)) or why_not(node, facts):
            continue
        chosen.add(position)
        half.update(name for _, name in results(node, facts))
    if half:
        chosen |= _passing_on_to(chosen, facts)
    return frozenset(chosen)


def _is_wanted(node: NodeProto, layers: Collection[str] | None, facts: FloatFacts) -> bool:
    if layers is not None:
        return node.op_type in LAYER_OPERATORS and node.name in layers
    return node.op_type in LAYER_OPERATORS or (node.op_type == "Gather" and len(_dims(node.input[0], facts)) > 1)


def _dims(name: str, facts: FloatFacts) -> tuple[int, ...]:
    return tuple(facts.constants[name].dims) if name in facts.constants else ()


def _is_between(node: NodeProto, half: set[str], facts: FloatFacts) -> bool:
    """Whether every computed value that it takes is half already; a layer that was not named stays as it is."""
    if node.op_type in LAYER_OPERATORS and node.input[1] in facts.constants:
        return False
    taken = [name for _, name in operands(node, facts) if name not in facts.constants]
    return bool(taken) and half.issuperset(taken)


def _passing_on_to(chosen: set[int], facts: FloatFacts) -> set[int]:
    """Nodes that only pass on values to half readers: the cast moves in front of them, where it is no dearer."""
    nodes = facts.graph.model.graph.node
    half_readers = {id(nodes[position]) for position in chosen}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[int] = set()
    kept = facts.pinned
    for position in reversed(range(len(nodes))):
        node = nodes[position]
        outputs = [name for _, name in results(node, facts)]
        reading = [reader for name in outputs for reader in readers.get(name, [])]
        carries = reading and all(id(reader) in half_readers for reader in reading) and not kept & set(outputs)
        is_new = position not in chosen and node.op_type in PASSING_ON and len(list(operands(node, facts))) == 1
        if carries and is_new and not why_not(node, facts):
            found.add(position)
            half_readers.add(id(node))
    return found


def _reason(facts: FloatFacts, layers: Collection[str] | None) -> str:
    wanted = [node for node in facts.graph.model.graph.node if _is_wanted(node, layers, facts)]
    if not wanted:
        return f"no layer to compute in {facts.precision.upper()}"
    more = f", and {len(wanted) - 1} more like it" if len(wanted) > 1 else ""
    return f"{label(wanted[0])} cannot compute in {facts.precision.upper()}: {why_not(wanted[0], facts)}{more}"
