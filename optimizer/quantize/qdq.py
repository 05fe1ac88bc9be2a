"""Write quantize and dequantize pairs into a graph: the standard form that every engine reads.

Activations have one scale each, from their range; weights one per output channel, symmetric, so that the largest
weight of a channel is the largest integer. A bias becomes a 32-bit integer at the product of both scales, or stays
float in the symmetric scheme. A value that is held in eight bits keeps its name for its readers; every node of the
float graph keeps its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer
from optimizer.graph.nodes import captured_values, float_attribute, input_at, int_attribute
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
        self._model = graph.copy()
        self._placement = placement
        self._scheme = scheme
        self._numbers = {
            name: activation_numbers(*ranges[origin], scheme) for name, origin in placement.origins.items()
        }
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._written_weights: dict[tuple[str, bytes], str] = {}
        self._taken = _all_names(self._model)
        self._pairs = {name: self._fresh(f"{name}/dequantized") for name in placement.origins}
        self._nodes: list[NodeProto] = []

    def write(self, layers: Mapping[str, Layer]) -> Graph:
        for value in self._model.graph.input:
            self._hold(value.name)
        for node in list(self._model.graph.node):
            if node.name in layers:
                self._write_layer(node, layers[node.name])
            self._write_node(node)
        del self._model.graph.node[:]
        self._model.graph.node.extend(self._nodes)
        _drop_unread_weights(self._model)
        return Graph(self._model)

    def _write_node(self, node: NodeProto) -> None:
        for position, name in enumerate(node.input):
            if node.name in self._placement.readers.get(name, ()):
                node.input[position] = self._pairs[name]
        self._nodes.append(node)
        for position, name in enumerate(node.output):
            if name in self._placement.given_out:
                node.output[position] = self._fresh(f"{name}/float")
            self._hold(name, node.output[position])

    def _hold(self, name: str, source: str = "") -> None:
        """Quantize a value behind its producer; readers find the result under its name, or under that of the pair."""
        if name not in self._numbers:
            return
        numbers = self._numbers[name]
        result = name if name in self._placement.given_out else self._pairs[name]
        scale = self._constant(f"{name}/scale", np.asarray(numbers.scale))
        zero = self._constant(f"{name}/zero_point", np.asarray(numbers.zero))
        integers = self._fresh(f"{name}/integers")
        self._add("QuantizeLinear", [source or name, scale, zero], integers, name)
        self._add("DequantizeLinear", [integers, scale, zero], result, name)

    def _write_layer(self, node: NodeProto, layer: Layer) -> None:
        weight = numpy_helper.to_array(self._weights[layer.weights[0]])
        axis = channel_axis(node)
        scales = weight_scales(weight, axis, LARGEST_WEIGHT[self._scheme])
        bias = self._bias(node, weight.shape[axis])
        if bias is not None:
            products = float(self._numbers[layer.activation].scale) * scales
            scales = np.maximum(scales, scales * np.abs(bias) / (products * _LARGEST_BIAS))
        scales = scales.astype(np.float32)
        node.input[1] = self._write_weight(layer.weights[0], weight, axis, scales)
        if bias is not None:
            node.input[2] = self._write_bias(node.name, bias, self._numbers[layer.activation].scale * scales)

    def _write_weight(self, name: str, weight: Array, axis: int, scales: Array) -> str:
        key = (name, scales.tobytes() + bytes([axis]))
        if key not in self._written_weights:
            wide = np.expand_dims(scales, [number for number in range(weight.ndim) if number != axis])
            largest = LARGEST_WEIGHT[self._scheme]
            integers = np.clip(np.rint(weight / wide), -largest, largest).astype(np.int8)
            inputs = [
                self._constant(f"{name}/integers", integers),
                self._constant(f"{name}/scale", scales),
                self._constant(f"{name}/zero_point", np.zeros(scales.shape, np.int8)),
            ]
            result = self._fresh(f"{name}/dequantized")
            self._add("DequantizeLinear", inputs, result, name, axis=axis)
            self._written_weights[key] = result
        return self._written_weights[key]

    def _bias(self, node: NodeProto, channels: int) -> Array | None:
        """The bias as one number per channel; None without one, or where it must stay float."""
        name = input_at(node, 2)
        if self._scheme == "s8s8" or name not in self._weights or float_attribute(node, "beta", 1.0) != 1.0:
            return None
        bias = numpy_helper.to_array(self._weights[name]).astype(np.float64)
        if bias.size not in (1, channels) or bias.shape[-1:] not in ((), (1,), (channels,)):
            return None
        return np.broadcast_to(bias.reshape(-1), (channels,))

    def _write_bias(self, layer: str, bias: Array, scales: Array) -> str:
        integers = np.clip(np.rint(bias / scales.astype(np.float64)), -_LARGEST_BIAS, _LARGEST_BIAS)
        inputs = [
            self._constant(f"{layer}/bias/integers", integers.astype(np.int32)),
            self._constant(f"{layer}/bias/scale", scales),
        ]
        result = self._fresh(f"{layer}/bias/dequantized")
        self._add("DequantizeLinear", inputs, result, f"{layer}/bias", axis=0)
        return result

    def _add(self, operator: str, inputs: list[str], output: str, value: str, **attributes: int) -> None:
        name = self._fresh(f"{value}/{operator}")
        self._nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))

    def _constant(self, name: str, array: Array) -> str:
        found = self._fresh(name)
        self._model.graph.initializer.append(numpy_helper.from_array(array, found))
        return found

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _scale(value: float) -> np.float32:
    """A value that is zero on every row has no scale of its own."""
    return np.float32(max(value, _SMALLEST_SCALE)) if value else np.float32(1)


def _all_names(model: ModelProto) -> set[str]:
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update((node.name, *node.input, *node.output, *captured_values(node)))
    return names


def _drop_unread_weights(model: ModelProto) -> None:
    """Remove float weights that only layers read which have them in eight bits now."""
    read = {value.name for value in model.graph.output}
    for node in model.graph.node:
        read.update((*node.input, *captured_values(node)))
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    dropped = {tensor.name for tensor in model.graph.initializer} - {tensor.name for tensor in kept}
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    fed = [value for value in model.graph.input if value.name not in dropped]
    del model.graph.input[:]
    model.graph.input.extend(fed)
