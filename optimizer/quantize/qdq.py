"""Write quantize and dequantize pairs into a graph: the standard form that every engine reads.

Activations have one scale each, from their range; weights one per output channel, symmetric, so that the largest
weight of a channel is the largest integer. A bias becomes a 32-bit integer at the product of both scales, or stays
float in the symmetric scheme. A value that is held in eight bits keeps its name for its readers; every node of the
float graph keeps its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer
from optimizer.graph.nodes import float_attribute, input_at, int_attribute
from optimizer.quantize.graph_writer import GraphWriter
from optimizer.quantize.placement import Placement
from optimizer.trial import Scheme

# The largest integer of a weight. Two products of 255 and 64 are within 16 bits, two of 255 and 127 are not.
LARGEST_WEIGHT: Mapping[Scheme, int] = {"u8s8": 127, "u8s7": 64, "s8s8": 127}
_SMALLEST_SCALE = 1e-30
_LARGEST_BIAS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What turns floats into integers: real = scale * (integer - zero)."""

    scale: np.float32
    zero: np.uint8 | np.int8


def activation_numbers(low: float, high: float, scheme: Scheme) -> _Numbers:
    """The scale and the zero point of a range; zero itself is always exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme == "s8s8":
        return _Numbers(_scale(max(-low, high) / 127), np.int8(0))
    scale = _scale((high - low) / 255)
    return _Numbers(scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255)))


def channel_axis(layer: NodeProto) -> int:
    """Which axis of its weight counts the output channels."""
    if layer.op_type == "MatMul":
        return 1
    return 0 if layer.op_type == "Conv" or int_attribute(layer, "transB", 0) else 1


def weight_scales(weight: Array, axis: int, largest: int) -> Array:
    """One scale per channel; a channel without weights takes the smallest of the others, which suits its bias."""
    others = tuple(number for number in range(weight.ndim) if number != axis)
    scales = np.abs(weight.astype(np.float64)).max(axis=others) / largest
    used = scales[scales > 0]
    return np.maximum(np.where(scales > 0, scales, used.min() if used.size else 1.0), _SMALLEST_SCALE)


def write_pairs(
    graph: Graph,
    layers: Mapping[str, Layer],
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    scheme: Scheme,
) -> Graph:
    """Insert the pairs; `graph` stays as it is, and its nodes have names."""
    return _Writer(graph, placement, ranges, scheme).write(layers)


class _Writer:
    def __init__(
        self, graph: Graph, placement: Placement, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
    ) -> None:
        self._writer = GraphWriter(graph)
        self._placement = placement
        self._scheme = scheme
        self._numbers = {
            name: activation_numbers(*ranges[origin], scheme) for name, origin in placement.origins.items()
        }
        self._pairs = {name: self._writer.fresh(f"{name}/dequantized") for name in placement.origins}
        self._written_weights: dict[tuple[str, float, int, bytes], str] = {}

    def write(self, layers: Mapping[str, Layer]) -> Graph:
        for value in list(self._writer.model.graph.input):
            self._hold(value.name, value.name)
        for node in self._writer.old_nodes:
            if node.name in layers:
                self._write_layer(node, layers[node.name])
            self._write_node(node)
        return self._writer.finish()

    def _write_node(self, node: NodeProto) -> None:
        for position, name in enumerate(node.input):
            if node.name in self._placement.readers.get(name, ()):
                node.input[position] = self._pairs[name]
        self._writer.keep(node)
        for position, name in enumerate(node.output):
            if name in self._placement.given_out:
                node.output[position] = self._writer.fresh(f"{name}/float")
            self._hold(name, node.output[position])

    def _hold(self, name: str, source: str) -> None:
        """Quantize a value behind its producer; readers find the result under its name, or under that of the pair."""
        if name not in self._numbers:
            return
        numbers = self._numbers[name]
        result = name if name in self._placement.given_out else self._pairs[name]
        scale = self._writer.constant(f"{name}/scale", np.asarray(numbers.scale))
        zero = self._writer.constant(f"{name}/zero_point", np.asarray(numbers.zero))
        integers = self._writer.fresh(f"{name}/integers")
        self._writer.add("QuantizeLinear", [source, scale, zero], integers, f"{name}/QuantizeLinear")
        self._writer.add("DequantizeLinear", [integers, scale, zero], result, f"{name}/DequantizeLinear")

    def _write_layer(self, node: NodeProto, layer: Layer) -> None:
        alpha = _take_factor(node, "alpha")
        weight = numpy_helper.to_array(self._writer.weights[layer.weights[0]]) * np.float32(alpha)
        axis = channel_axis(node)
        scales = weight_scales(weight, axis, LARGEST_WEIGHT[self._scheme])
        bias = self._bias(node, weight.shape[axis])
        if bias is not None:
            activation_scale = float(self._numbers[layer.activation].scale)
            scales = np.maximum(scales, np.abs(bias) / (activation_scale * _LARGEST_BIAS))
        scales = scales.astype(np.float32)
        node.input[1] = self._write_weight((layer.weights[0], alpha, axis), weight, scales)
        if bias is not None:
            node.input[2] = self._write_bias(node.name, bias, self._numbers[layer.activation].scale * scales)

    def _write_weight(self, form: tuple[str, float, int], weight: Array, scales: Array) -> str:
        """Layers that share a weight in the same form and with the same scales share its integers."""
        key = (*form, scales.tobytes())
        if key not in self._written_weights:
            name, _, axis = form
            wide = np.expand_dims(scales, [number for number in range(weight.ndim) if number != axis])
            largest = LARGEST_WEIGHT[self._scheme]
            integers = np.clip(np.rint(weight / wide), -largest, largest).astype(np.int8)
            inputs = [
                self._writer.constant(f"{name}/integers", integers),
                self._writer.constant(f"{name}/scale", scales),
                self._writer.constant(f"{name}/zero_point", np.zeros(scales.shape, np.int8)),
            ]
            result = self._writer.fresh(f"{name}/dequantized")
            self._writer.add("DequantizeLinear", inputs, result, f"{name}/DequantizeLinear", axis=axis)
            self._written_weights[key] = result
        return self._written_weights[key]

    def _bias(self, node: NodeProto, channels: int) -> Array | None:
        """The bias as one number per channel; None without one, or where it must stay float."""
        name = input_at(node, 2)
        if self._scheme == "s8s8" or name not in self._writer.weights:
            return None
        bias = numpy_helper.to_array(self._writer.weights[name]).astype(np.float64)
        if bias.size != 1 and (bias.size != channels or bias.shape[-1] != channels):
            return None
        return np.broadcast_to(bias.reshape(-1) * _take_factor(node, "beta"), (channels,))

    def _write_bias(self, layer: str, bias: Array, scales: Array) -> str:
        integers = np.clip(np.rint(bias / scales.astype(np.float64)), -_LARGEST_BIAS, _LARGEST_BIAS)
        inputs = [
            self._writer.constant(f"{layer}/bias/integers", integers.astype(np.int32)),
            self._writer.constant(f"{layer}/bias/scale", scales),
        ]
        result = self._writer.fresh(f"{layer}/bias/dequantized")
        return self._writer.add("DequantizeLinear", inputs, result, f"{layer}/bias/DequantizeLinear", axis=0)


def _take_factor(node: NodeProto, name: str) -> float:
    """Read a Gemm's factor and make it 1: ONNX Runtime fuses no other."""
    factor = float_attribute(node, name, 1.0) if node.op_type == "Gemm" else 1.0
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.f = 1.0
    return factor


def _scale(value: float) -> np.float32:
    """A value that is zero on every row has no scale of its own."""
    return np.float32(max(value, _SMALLEST_SCALE)) if value else np.float32(1)
