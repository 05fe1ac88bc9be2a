"""Shapes and element types of every value of a graph, as far as ONNX can tell them without running it."""

import onnx

from optimizer.graph.external_data import tensors_of

# Shape inference reads small tensors (a Reshape's target); a protobuf message with the large ones might not fit.
_WEIGHT_BYTES = 1 << 16


def infer_shapes(model: onnx.ModelProto, is_strict: bool) -> onnx.ModelProto:
    """Infer every shape that can be inferred; returns a model without its large weights.

    Raises:
        onnx.shape_inference.InferenceError: shapes or types contradict each other (only where `is_strict`).
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    for tensor in tensors_of(skeleton):
        if len(tensor.raw_data) > _WEIGHT_BYTES:
            tensor.ClearField("raw_data")
    return onnx.shape_inference.infer_shapes(skeleton, check_type=is_strict, strict_mode=is_strict, data_prop=True)


def value_types(inferred: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Type of every value of the main graph that is declared or was inferred."""
    graph = inferred.graph
    return {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}
