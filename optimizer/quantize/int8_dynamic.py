"""Dynamic INT8: weights are integers in the file, activations become integers as they come.

    MatMul(x, W)  ->  Mul(Cast(MatMulInteger(DynamicQuantizeLinear(x), W8)), x_scale * W_scale)

ONNX Runtime fuses that into one kernel, and has one for the LSTM. No calibration is needed, but the scale of `x` spans
the whole batch, so that one row's answer depends on its neighbours. Convolutions are never treated: ONNX Runtime has no
fused kernel for them, and they come out slower than in FP32.
"""

from collections.abc import Collection

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer, layers_of, named_graph
from optimizer.graph.nodes import input_at, int_attribute
from optimizer.quantize.graph_writer import GraphWriter
from optimizer.quantize.matrix_layers import MatrixLayer, matrix_layers
from optimizer.quantize.qdq import LARGEST_WEIGHT, weight_scales
from optimizer.trial import Scheme

_LOWEST_OPSET = 11
_LSTM_INPUTS = 8


def quantize_int8_dynamic(graph: Graph, layers: Collection[str], scheme: Scheme = "u8s7") -> Graph | Declined:
    """Quantize those of `layers` that can be: MatMul, Gemm and LSTM with FP32 weights.

    Args:
        graph: stays as it is.
        layers: by name.
        scheme: activations are always U8; weights of seven bits are right on every x86 CPU, those of eight (`u8s8`)
            only where VNNI or ARM computes them.
    """
    if graph.opset < _LOWEST_OPSET:
        return Declined(f"opset {graph.opset} has no dynamic quantization; {_LOWEST_OPSET} or later is needed")
    named = named_graph(graph)
    matrices = matrix_layers(named, layers)
    lstms = {layer.name: layer for layer in layers_of(named) if layer.name in layers and layer.operator == "LSTM"}
    writer = _DynamicWriter(named, LARGEST_WEIGHT[scheme])
    count = 0
    for node in writer.nodes():
        if node.name in matrices:
            writer.write_matrix(matrices[node.name])
        elif node.name in lstms and writer.can_write_lstm(node, lstms[node.name]):
            writer.write_lstm(node)
        else:
            writer.keep(node)
            continue
        count += 1
    return writer.finish() if count else Declined("no MatMul, Gemm or LSTM with FP32 weights to quantize dynamically")


class _DynamicWriter:
    def __init__(self, graph: Graph, largest: int) -> None:
        self._writer = GraphWriter(graph)
        self._largest = largest
        self._activations: dict[str, tuple[str, str, str]] = {}
        self._weights: dict[tuple[str, tuple[bool, float]], tuple[str, str, str]] = {}

    def nodes(self) -> list[NodeProto]:
        return self._writer.old_nodes

    def keep(self, node: NodeProto) -> None:
        self._writer.keep(node)

    def finish(self) -> Graph:
        return self._writer.finish()

    def write_matrix(self, layer: MatrixLayer) -> None:
        """The integer product keeps the layer's name."""
        add, fresh = self._writer.add, self._writer.fresh
        integers, scale, zero = self._activation(layer.activation)
        weight, weight_scale, weight_zero = self._weight(layer)
        self._writer.free(layer.name)
        product = add("MatMulInteger", [integers, weight, zero, weight_zero], fresh(f"{layer.name}/sum"), layer.name)
        floats = add("Cast", [product], fresh(f"{layer.name}/float"), f"{layer.name}/Cast", to=TensorProto.FLOAT)
        scales = add("Mul", [scale, weight_scale], fresh(f"{layer.name}/scales"), f"{layer.name}/MulScales")
        result = fresh(f"{layer.name}/scaled") if layer.bias else layer.output
        add("Mul", [floats, scales], result, f"{layer.name}/Mul")
        if layer.bias:
            add("Add", [result, layer.bias], layer.output, f"{layer.name}/Add")

    def can_write_lstm(self, node: NodeProto, layer: Layer) -> bool:
        """ONNX Runtime's kernel takes FP32 weights, sequence first, and gates that are not coupled."""
        weights = [self._writer.weights[name] for name in layer.weights]
        is_plain = not int_attribute(node, "layout", 0) and not int_attribute(node, "input_forget", 0)
        return is_plain and all(weight.data_type == TensorProto.FLOAT for weight in weights)

    def write_lstm(self, node: NodeProto) -> None:
        inputs = [input_at(node, position) for position in range(_LSTM_INPUTS)]
        numbers = []
        for position in (1, 2):
            inputs[position], *pair = self._lstm_weight(inputs[position])
            numbers += pair
        del node.input[:]
        node.input.extend((*inputs, *numbers))
        node.op_type = "DynamicQuantizeLSTM"
        kept = [attribute for attribute in node.attribute if attribute.name not in ("layout", "input_forget")]
        del node.attribute[:]
        node.attribute.extend(kept)
        self._writer.add_contributed(node)

    def _activation(self, name: str) -> tuple[str, str, str]:
        """Layers that read the same activation share its integers."""
        if name not in self._activations:
            outputs = [self._writer.fresh(f"{name}/{part}") for part in ("integers", "scale", "zero_point")]
            self._writer.add_many("DynamicQuantizeLinear", [name], outputs, f"{name}/DynamicQuantizeLinear")
            self._activations[name] = (outputs[0], outputs[1], outputs[2])
        return self._activations[name]

    def _weight(self, layer: MatrixLayer) -> tuple[str, str, str]:
        key = (layer.weight_name, layer.form)
        if key not in self._weights:
            scales = weight_scales(layer.weight, 1, self._largest).astype(np.float32)
            self._weights[key] = self._constants(layer.weight_name, self._integers(layer.weight, scales), scales)
        return self._weights[key]

    def _lstm_weight(self, name: str) -> tuple[str, str, str]:
        """[directions, 4 * hidden, inputs], one scale per row; the kernel wants the last two axes swapped."""
        weight = numpy_helper.to_array(self._writer.weights[name])
        rows = weight.reshape(-1, weight.shape[2])
        scales = weight_scales(rows, 0, self._largest).astype(np.float32)
        integers = self._integers(rows.T, scales).T.reshape(weight.shape)
        return self._constants(
            name, np.ascontiguousarray(integers.transpose(0, 2, 1)), scales.reshape(weight.shape[:2])
        )

    def _integers(self, weight: Array, scales: Array) -> Array:
        return np.clip(np.rint(weight / scales), -self._largest, self._largest).astype(np.int8)

    def _constants(self, name: str, integers: Array, scales: Array) -> tuple[str, str, str]:
        return (
            self._writer.constant(f"{name}/integers", integers),
            self._writer.constant(f"{name}/scale", scales),
            self._writer.constant(f"{name}/zero_point", np.zeros(scales.shape, np.int8)),
        )
