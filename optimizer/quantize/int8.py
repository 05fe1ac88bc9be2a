"""Static INT8 for ONNX Runtime on x86: quantize and dequantize pairs around the operators that multiply matrices.

Activations are U8 with a zero point, weights S8 per channel and symmetric: the one arrangement that ONNX Runtime's x86
kernels are fast on. Operators that only pass values on are taken along, so that a chain stays in eight bits; everything
else, the additions of a residual network included, computes in the precision it had.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, shape_inference

from optimizer.graph.declined import Declined
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph
from optimizer.graph.layers import named_graph
from optimizer.trial import Scheme

_COMPUTING = frozenset(("Conv", "Gemm", "MatMul"))
_PASSING_ON = frozenset(
    ("Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
)
# From this opset on, weights can have one scale per channel.
LOWEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """Which nodes are to be quantized, and the tensors whose ranges that takes."""

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    tensors: tuple[str, ...]
    layers: tuple[str, ...]


def plan_int8(graph: Graph, layers: Collection[str] | None = None) -> QuantizationPlan | Declined:
    """Choose the nodes: what multiplies by FP32 weights, and what passes its values on."""
    if graph.opset < LOWEST_OPSET:
        return Declined(f"opset {graph.opset} has no per-channel quantization; {LOWEST_OPSET} or later is needed")
    if graph.size_bytes > INLINE_LIMIT_BYTES:
        return Declined("the model is larger than 2 GB, which the quantizer cannot read")
    named = named_graph(graph)
    floats = _float_tensors(named)
    weights = {tensor.name for tensor in named.model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    computing = [
        node
        for node in named.model.graph.node
        if _is_computing(node, weights, floats) and (layers is None or node.name in layers)
    ]
    if not computing:
        return Declined("no Conv, Gemm or MatMul with FP32 weights to quantize")
    passing = [node for node in named.model.graph.node if node.op_type in _PASSING_ON and node.input[0] in floats]
    chosen = [*computing, *passing]
    touched = [name for node in chosen for name in (*node.input, *node.output)]
    tensors = dict.fromkeys(name for name in touched if name in floats and name not in weights)
    operators = sorted({node.op_type for node in chosen})
    return QuantizationPlan(
        nodes=tuple(node.name for node in chosen),
        operators=tuple(operators),
        tensors=tuple(tensors),
        layers=tuple(node.name for node in computing),
    )


def quantize_int8(
    graph: Graph, plan: QuantizationPlan, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> Graph | Declined:
    """Insert the pairs with the observed ranges; the given graph stays as it is."""
    strange = [name for name, pair in ranges.items() if not np.isfinite(pair).all()]
    if strange:
        return Declined(f"tensor '{strange[0]}' was not finite on the calibration rows")
    try:
        return Graph(_quantized_model(graph, plan, ranges, scheme))
    except Exception as problem:
        # The library raises whatever occurs to it; a graph that it cannot treat must not end the build.
        return Declined(f"ONNX Runtime's quantizer failed: {type(problem).__name__}: {problem}")


def _quantized_model(
    graph: Graph, plan: QuantizationPlan, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    observed = {
        name: TensorData(lowest=np.float32(lowest), highest=np.float32(highest))
        for name, (lowest, highest) in ranges.items()
    }
    quantizer = QDQQuantizer(
        shape_inference.infer_shapes(named_graph(graph).model),
        per_channel=True,
        reduce_range=scheme == "u8s7",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if scheme == "s8s8" else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, observed),
        nodes_to_quantize=list(plan.nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(plan.operators),
        extra_options={
            "ActivationSymmetric": scheme == "s8s8",
            "WeightSymmetric": True,
            "QuantizeBias": scheme != "s8s8",
        },
    )
    quantizer.quantize_model()
    quantized: ModelProto = quantizer.model.model
    return quantized


def _is_computing(node: NodeProto, weights: set[str], floats: set[str]) -> bool:
    return node.op_type in _COMPUTING and node.input[0] in floats and node.input[1] in weights


def _float_tensors(graph: Graph) -> set[str]:
    inferred = shape_inference.infer_shapes(graph.model).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
