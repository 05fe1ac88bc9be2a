"""Layers that multiply by one matrix, MatMul and Gemm, in one form: activation @ weight + bias."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.graph.nodes import float_attribute, input_at, int_attribute


@dataclass(frozen=True, slots=True)
class MatrixLayer:
    """One layer.

    Attributes:
        name: of its node.
        activation: what it computes on.
        weight_name: the initializer that `weight` was made from.
        weight: FP32, [inputs, outputs]; a Gemm's `alpha` is in it.
        form: how it was made; the same initializer in the same form is the same weight.
        bias: what is added to the product; empty for nothing.
        output: what the node gives out.
    """

    name: str
    activation: str
    weight_name: str
    weight: Array
    form: tuple[bool, float]
    bias: str
    output: str


def matrix_layers(graph: Graph, layers: Collection[str]) -> dict[str, MatrixLayer]:
    """Those of `layers` that have this form, by name: FP32 weights of rank 2, an activation as it is, a plain bias."""
    nodes = {node.name: node for node in graph.model.graph.node}
    weights = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    found = {}
    for layer in layers_of(graph):
        node = nodes[layer.name]
        if layer.name in layers and _has_form(node, weights[layer.weights[0]]):
            form = (bool(int_attribute(node, "transB", 0)), float_attribute(node, "alpha", 1.0))
            found[layer.name] = MatrixLayer(
                name=layer.name,
                activation=layer.activation,
                weight_name=layer.weights[0],
                weight=_weight(numpy_helper.to_array(weights[layer.weights[0]]), *form),
                form=form,
                bias=input_at(node, 2) if layer.operator == "Gemm" else "",
                output=layer.output,
            )
    return found


def _has_form(node: NodeProto, weight: TensorProto) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
        return False
    has_plain_bias = not input_at(node, 2) or float_attribute(node, "beta", 1.0) == 1.0
    return has_plain_bias and not int_attribute(node, "transA", 0)


def _weight(weight: Array, is_transposed: bool, alpha: float) -> Array:
    return np.ascontiguousarray((weight.T if is_transposed else weight) * np.float32(alpha))
