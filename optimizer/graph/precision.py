"""What a graph computes in, told by its weights and operators."""

from collections import Counter

from onnx import TensorProto

from optimizer.graph.graph import Graph

_PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


def precision_of(graph: Graph) -> str:
    """The precision that most float weights have; FP32 for a graph without any."""
    counts: Counter[int] = Counter()
    for tensor in graph.model.graph.initializer:
        if tensor.data_type in _PRECISIONS:
            counts[tensor.data_type] += 1
    return _PRECISIONS[counts.most_common(1)[0][0]] if counts else "fp32"


def lowest_precision_of(graph: Graph) -> str:
    """The lowest precision that a graph computes in, by its operators and weights."""
    operators = graph.op_counts()
    types = {tensor.data_type for tensor in graph.model.graph.initializer}
    if any(name.endswith("MatMulNBits") for name in operators) or types & {TensorProto.INT4, TensorProto.UINT4}:
        return "int4"
    if any(word in name for name in operators for word in ("DynamicQuantize", "MatMulInteger")):
        return "int8_dynamic"
    if any("quantizelinear" in name.lower() or "QLinear" in name for name in operators):
        return "int8"
    return "fp16" if TensorProto.FLOAT16 in types else "bf16" if TensorProto.BFLOAT16 in types else "fp32"
