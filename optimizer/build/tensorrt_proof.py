"""What a TensorRT plan computes in, node by node: the layers of the engine set beside what its graph asks for.

A strongly typed network leaves one thing to the builder: whether a quantized node really runs on integers, or is
computed in float between its Q and its DQ. That, and what was fused into what, is read from the engine's own list of
layers. A node that no engine layer names counts as the float that the graph gives it, never as integers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from enginehouse.evidence import EngineLayer, EngineProof
from optimizer.build.tensorrt_layers import BuiltLayer
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import DEFAULT_DOMAINS
from optimizer.graph.shapes import infer_shapes, value_types

_COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})

_FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}
_QUANTIZED: dict[int, str] = {
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT4: "int4",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
}
_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "uint8": 8, "fp8": 8, "int4": 4, "fp4": 4}

# Kernels that the library writes for the moment: around a computing layer they only move and convert.
_GENERATED = "kgen"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the graph wants of a node: its precision, and the float that its tensors have between Q and DQ."""

    precision: str
    float_type: str


def prove(layers: Sequence[BuiltLayer], graph: Graph) -> EngineProof:
    """Set the layers of an engine beside the graph that it was built from, whose nodes have names."""
    asked = _asked(graph)
    homes = {name: _home(name, layers) for name in asked}
    found = {
        name: asked[name].float_type if home is None else computing_precision(home) for name, home in homes.items()
    }
    computing = {home.name for home in homes.values() if home}
    counts = Counter(found.values())
    return EngineProof(
        layers=tuple(_record(layer, layer.name in computing) for layer in layers),
        layer_share={precision: count / len(found) for precision, count in sorted(counts.items())},
        kept={
            name: _why(asked[name], found[name], homes[name])
            for name in found
            if _bits(found[name]) > _bits(asked[name].precision)
        },
    )


def computing_precision(layer: BuiltLayer) -> str:
    """What a layer multiplies in: integers only if both of its operands are, else the narrowest float it reads."""
    narrowest = _narrowest(layer.inputs) or _narrowest(layer.outputs)
    if layer.weights in ("int4", "fp4"):
        return layer.weights
    if _bits(narrowest) > 8:
        return narrowest
    has_two_narrow = sum(_bits(kind) <= 8 for kind in layer.inputs if kind in _BITS) > 1
    return narrowest if has_two_narrow or _bits(layer.weights) <= 8 else layer.weights


def _home(node: str, layers: Sequence[BuiltLayer]) -> BuiltLayer | None:
    """The engine layer that computes a node: of several that name it the widest, for a claim must not be too large."""
    naming = [layer for layer in layers if node in layer.source_nodes and computing_precision(layer) in _BITS]
    candidates = [layer for layer in naming if layer.operator != _GENERATED] or naming
    return max(candidates, key=lambda layer: _bits(computing_precision(layer)), default=None)


def _record(layer: BuiltLayer, is_computing: bool) -> EngineLayer:
    shown = computing_precision(layer) if is_computing else _narrowest(layer.inputs) or _narrowest(layer.outputs)
    return EngineLayer(
        name=layer.name,
        operator=layer.operator,
        precision=shown or next(iter((*layer.inputs, *layer.outputs)), ""),
        source_nodes=layer.source_nodes,
    )


def _why(asked: _Asked, found: str, home: BuiltLayer | None) -> str:
    if home is None:
        return f"the graph asks for {asked.precision}, and no layer of the engine names it"
    return f"the graph asks for {asked.precision}, and the engine's layer {home.name} computes in {found}"


def _narrowest(kinds: Sequence[str]) -> str:
    return min((kind for kind in kinds if kind in _BITS), key=_bits, default="")


def _bits(kind: str) -> int:
    return _BITS.get(kind, 32)


def _asked(graph: Graph) -> dict[str, _Asked]:
    """What the graph asks of each computing node, by its name."""
    types = _element_types(graph.model)
    producers = {name: node for node in graph.model.graph.node for name in node.output}
    return {
        node.name: _asked_of(node, producers, types)
        for node in graph.model.graph.node
        if node.op_type in _COMPUTING and node.domain in DEFAULT_DOMAINS
    }


def _asked_of(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> _Asked:
    float_type = next((_FLOATS[types[name]] for name in node.input if types.get(name) in _FLOATS), "fp32")
    operands = [_quantized_type(name, producers, types) for name in node.input[:2]]
    if "int4" in operands:
        return _Asked("int4", float_type)
    return _Asked(operands[0] if all(operands) and operands else float_type, float_type)


def _quantized_type(name: str, producers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> str:
    """What a tensor was quantized to before the DQ that gives it; empty if none does."""
    producer = producers.get(name)
    if producer is None or producer.op_type != "DequantizeLinear":
        return ""
    return _QUANTIZED.get(types.get(producer.input[0], 0), "")


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = value_types(infer_shapes(model, is_strict=False))
    types = {name: found.tensor_type.elem_type for name, found in inferred.items()}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
