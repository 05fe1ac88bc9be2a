"""Which nodes may compute in FP16 or BF16: by operator, by what ONNX allows, and by the values that were observed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, defs, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.layers import LAYER_OPERATORS
from optimizer.graph.nodes import DEFAULT_DOMAINS, captured_values, constant_value
from optimizer.graph.shapes import infer_shapes, value_types

HalfPrecision = Literal["fp16", "bf16"]

LARGEST_FP16 = 65504.0
# Rows to come may reach further than those of the calibration.
MARGIN = 2.0
# Rounding alone costs a tensor at most 5e-4 of its length; more was lost by values too small for FP16.
LARGEST_WEIGHT_LOSS = 1e-3

# What computes element by element and stays near the size of what it is given; worth it between two of the above.
_ELEMENTWISE = frozenset(
    (
        "Abs", "Add", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min", "Mul", "Neg",
        "PRelu", "Relu", "Resize", "Sigmoid", "Sub", "Sum", "Tanh", "Where",
    )
)  # fmt: skip
# What gives on the values that it is given.
PASSING_ON = frozenset(
    (
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
# An eight-bit integer is at most so many steps away from its zero point.
_LARGEST_INT8_STEP = 255

_ONNX_TYPE = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}


@dataclass(frozen=True)
class FloatFacts:
    """What the rules look at: a graph, the precision in question, and the range of each tensor."""

    graph: Graph
    precision: HalfPrecision
    ranges: Mapping[str, tuple[float, float]]

    @cached_property
    def floats(self) -> frozenset[str]:
        """Every value that is known to be FP32."""
        types = value_types(infer_shapes(self.graph.model, is_strict=False))
        found = {name for name, kind in types.items() if kind.tensor_type.elem_type == TensorProto.FLOAT}
        return frozenset(found | set(self.constants))

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        """FP32 weights: initializers, and what Constant nodes hold."""
        found = {tensor.name: tensor for tensor in self.graph.model.graph.initializer}
        for node in self.graph.model.graph.node:
            value = constant_value(node) if node.op_type == "Constant" and node.attribute else None
            if value is not None and value.dtype == np.float32:
                found[node.output[0]] = numpy_helper.from_array(value, node.output[0])
        return {name: tensor for name, tensor in found.items() if tensor.data_type == TensorProto.FLOAT}

    @cached_property
    def dequantized(self) -> dict[str, NodeProto]:
        """What comes out of a Q/DQ pair, and the node that it comes from."""
        nodes = self.graph.model.graph.node
        return {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}

    @cached_property
    def pinned(self) -> frozenset[str]:
        """What must be there in FP32 under its own name: outputs of the model, and what subgraphs read."""
        graph = self.graph.model.graph
        captured = {name for node in graph.node for name in captured_values(node)}
        return frozenset(captured | {value.name for value in graph.output})


def operands(node: NodeProto, facts: FloatFacts) -> Iterator[tuple[int, str]]:
    """Position and name of each FP32 input that would be lowered together with the node."""
    schema = _schema(node, facts.graph)
    if schema is None or not schema.inputs:
        return
    kind = schema.outputs[0].type_str
    for position, name in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        if name in facts.floats and formal.type_str == kind:
            yield position, name


def results(node: NodeProto, facts: FloatFacts) -> Iterator[tuple[int, str]]:
    """Position and name of each FP32 output that would be lowered together with the node."""
    schema = _schema(node, facts.graph)
    if schema is None:
        return
    kind = schema.outputs[0].type_str
    for position, name in enumerate(node.output):
        formal = schema.outputs[min(position, len(schema.outputs) - 1)]
        if name and formal.type_str == kind:
            yield position, name


def why_not(node: NodeProto, facts: FloatFacts) -> str:
    """Say in one clause why a node must stay FP32; empty if it may be lowered."""
    return _why_not_the_operator(node, facts) or _why_not_its_values(node, facts)


def _why_not_the_operator(node: NodeProto, facts: FloatFacts) -> str:
    name = facts.precision.upper()
    if node.op_type not in LAYER_OPERATORS | _ELEMENTWISE | PASSING_ON or node.domain not in DEFAULT_DOMAINS:
        return f"{node.op_type} is computed in FP32 by rule"
    schema = _schema(node, facts.graph)
    if schema is None or _ONNX_TYPE[facts.precision] not in _allowed_types(schema):
        return f"{node.op_type} of opset {facts.graph.opset} has no {name}"
    if any(output not in facts.floats for _, output in results(node, facts)):
        return "it does not compute in FP32"
    return "it computes on integers" if _is_quantized(node, facts) else ""


def _is_quantized(node: NodeProto, facts: FloatFacts) -> bool:
    """A layer is quantized where its weights are, not where only what it reads is; anything else where it touches."""
    deciding = node.input[1:2] if node.op_type in LAYER_OPERATORS else node.input
    return any(name in facts.dequantized for name in deciding)


def _why_not_its_values(node: NodeProto, facts: FloatFacts) -> str:
    """BF16 reaches as far as FP32, so only FP16 has to be proven."""
    if facts.precision == "bf16":
        return ""
    for _, name in (*operands(node, facts), *results(node, facts)):
        reason = _why_not_weights(facts.constants[name]) if name in facts.constants else _why_not_range(name, facts)
        if reason:
            return reason
    return ""


def _why_not_range(name: str, facts: FloatFacts) -> str:
    reach = _reach(name, facts)
    if reach is None:
        return f"'{name}' has no calibrated range"
    if not reach * MARGIN <= LARGEST_FP16:
        return f"'{name}' reaches {reach:.3g}, and FP16 ends at {LARGEST_FP16:.0f}"
    return ""


def _reach(name: str, facts: FloatFacts) -> float | None:
    """Largest absolute value: observed, or all that eight bits can say."""
    if name in facts.ranges:
        return float(np.abs(facts.ranges[name]).max())
    scale = facts.dequantized[name].input[1] if name in facts.dequantized else ""
    if scale not in facts.constants:
        return None
    return _LARGEST_INT8_STEP * float(np.abs(numpy_helper.to_array(facts.constants[scale])).max())


def _why_not_weights(tensor: TensorProto) -> str:
    weights = numpy_helper.to_array(tensor)
    reach = float(np.abs(weights).max(initial=0.0))
    if not reach <= LARGEST_FP16:
        return f"'{tensor.name}' holds {reach:.3g}, and FP16 ends at {LARGEST_FP16:.0f}"
    loss = _loss(weights)
    if loss > LARGEST_WEIGHT_LOSS:
        return f"'{tensor.name}' is too small for FP16, which would lose {loss:.1%} of it"
    return ""


def _loss(weights: Array) -> float:
    """Length of what rounding takes away, over the length of the weights."""
    length = float(np.linalg.norm(weights.ravel()))
    if not length:
        return 0.0
    return float(np.linalg.norm((weights.astype(np.float16).astype(np.float32) - weights).ravel())) / length


def _schema(node: NodeProto, graph: Graph) -> defs.OpSchema | None:
    if node.domain not in DEFAULT_DOMAINS:
        return None
    try:
        return defs.get_schema(node.op_type, graph.opset)
    except onnx.defs.SchemaError:
        return None


def _allowed_types(schema: defs.OpSchema) -> set[str]:
    kind = schema.outputs[0].type_str
    allowed = (entry.allowed_type_strs for entry in schema.type_constraints if entry.type_param_str == kind)
    return {name for names in allowed for name in names}
