"""Static INT8: eight-bit layers with ranges that were calibrated, as quantize and dequantize pairs in the graph.

Which layers can be quantized, and what that takes; `placement.py` decides where the pairs go, `qdq.py` writes them.
Layers with memory (LSTM and its kin) are not among them: no engine computes those with calibrated integers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer, layers_of, named_graph
from optimizer.graph.shapes import infer_shapes, value_types
from optimizer.quantize.placement import Placement, place
from optimizer.quantize.qdq import write_pairs
from optimizer.trial import EngineName, Scheme

_COMPUTING = frozenset(("Conv", "Gemm", "MatMul"))
# From this opset on, weights can have one scale per channel.
LOWEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """Which nodes are to be quantized, and the tensors whose ranges that takes.

    Attributes:
        nodes: everything that will compute in eight bits, layers first, by name.
        operators: theirs, each once.
        tensors: values whose ranges must be observed; the plan of some layers needs no others than that of all, and
            no engine's needs others than ONNX Runtime's.
        layers: those of the asked-for layers that can be quantized.
        placement: where eight bits begin and end.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    tensors: tuple[str, ...]
    layers: tuple[str, ...]
    placement: Placement


def plan_int8(
    graph: Graph, layers: Collection[str] | None = None, engine: EngineName = "onnxruntime"
) -> QuantizationPlan | Declined:
    """Plan to quantize those of `layers` that can be, or all that can be, for an engine."""
    if graph.opset < LOWEST_OPSET:
        return Declined(f"opset {graph.opset} has no per-channel quantization; {LOWEST_OPSET} or later is needed")
    named = named_graph(graph)
    possible = _quantizable(named)
    chosen = [layer for layer in possible if layers is None or layer.name in layers]
    if not chosen:
        asked = "with FP32 weights" if not possible else "among the layers that were asked for"
        return Declined(f"no Conv, Gemm or MatMul {asked} to quantize")
    placement = place(named, chosen, _float_values(named), engine)
    nodes = (*(layer.name for layer in chosen), *placement.nodes)
    operators = {node.op_type for node in named.model.graph.node if node.name in set(nodes)}
    return QuantizationPlan(
        nodes=nodes,
        operators=tuple(sorted(operators)),
        tensors=tuple(dict.fromkeys(placement.origins.values())),
        layers=tuple(layer.name for layer in chosen),
        placement=placement,
    )


def quantize_int8(
    graph: Graph, plan: QuantizationPlan, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> Graph | Declined:
    """Insert the pairs, given at least the ranges of `plan.tensors`; the given graph stays as it is."""
    for name in plan.tensors:
        if name not in ranges:
            return Declined(f"tensor '{name}' was not observed")
        if not np.isfinite(ranges[name]).all():
            return Declined(f"tensor '{name}' was not finite on the calibration rows")
    named = named_graph(graph)
    layers = {layer.name: layer for layer in layers_of(named) if layer.name in set(plan.layers)}
    return write_pairs(named, layers, plan.placement, ranges, scheme)


def _quantizable(graph: Graph) -> list[Layer]:
    """The layers with finite FP32 weights of two dimensions or more that compute on FP32 values."""
    floats = _float_values(graph)
    weights = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    return [
        layer
        for layer in layers_of(graph)
        if layer.operator in _COMPUTING
        and layer.activation in floats
        and _is_matrix(weights[layer.weights[0]], layer.operator)
    ]


def _is_matrix(weight: TensorProto, operator: str) -> bool:
    """A stack of matrices in a MatMul has no output channels that scales could belong to."""
    return weight.data_type == TensorProto.FLOAT and (operator != "MatMul" or len(weight.dims) == 2)


def _float_values(graph: Graph) -> set[str]:
    """Every FP32 value that is fed or computed."""
    weights = {tensor.name for tensor in graph.model.graph.initializer}
    types = value_types(infer_shapes(graph.model, is_strict=False))
    floats = {name for name, kind in types.items() if kind.tensor_type.elem_type == TensorProto.FLOAT}
    return floats - weights
