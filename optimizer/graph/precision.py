"""What a graph computes in, told by its weights."""

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
