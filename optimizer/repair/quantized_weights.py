"""The integers that a quantized graph has made of its layers' weights."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import int_attribute, operator_name
from optimizer.repair.layer_weights import has_matrix, matrix_of, output_axis


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """Symmetric integers behind a DequantizeLinear.

    Attributes:
        node: the layer in the quantized graph.
        name: the initializer of the integers.
        integers: as they are stored.
        scales: [group, output], FP64; the same for all where `is_per_output` is false.
        is_per_output: whether each output has a scale of its own.
    """

    node: onnx.NodeProto
    name: str
    integers: Array
    scales: Array
    is_per_output: bool


def quantized_weights(graph: Graph) -> dict[str, QuantizedWeights]:
    """Read them by the name of the layer; weights in another form are left out."""
    makers = {node.output[0]: node for node in graph.model.graph.node if operator_name(node) == "DequantizeLinear"}
    tensors = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    found = {}
    for node in graph.model.graph.node:
        if len(node.input) > 1 and node.input[1] in makers:
            weights = _read(node, makers[node.input[1]], tensors)
            if weights is not None:
                found[node.name] = weights
    return found


def _read(node: onnx.NodeProto, maker: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> QuantizedWeights | None:
    if not all(name in tensors for name in maker.input if name):
        return None
    integers, scales, *zero_points = (numpy_helper.to_array(tensors[name]) for name in maker.input if name)
    if integers.dtype != np.int8 or np.any(zero_points) or not has_matrix(node, integers.shape):
        return None
    groups, outputs, *_ = matrix_of(node, integers).shape
    is_per_output = scales.size == groups * outputs and int_attribute(maker, "axis", 1) == output_axis(node)
    if scales.size != 1 and not is_per_output:
        return None
    positive = np.maximum(scales.astype(np.float64).reshape(-1), np.finfo(np.float32).tiny)
    by_output = np.broadcast_to(positive, groups * outputs).reshape(groups, outputs)
    return QuantizedWeights(node, maker.input[0], integers, by_output, is_per_output)
