"""Read one node: its operator, its attributes, what its subgraphs take from outside, what a Constant holds."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from enginehouse.dtype import Array

DEFAULT_DOMAINS = ("", "ai.onnx")


def operator_name(node: onnx.NodeProto) -> str:
    """`Conv`, or `com.example.Conv` outside the default domain."""
    return node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}.{node.op_type}"


def captured_values(node: onnx.NodeProto) -> Iterator[str]:
    """Every name in the node's subgraphs, their own ones included: too many rather than too few."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in (*graph.input, *graph.output))
            yield from (tensor.name for tensor in graph.initializer)
            for inner in graph.node:
                yield from (*inner.input, *inner.output)
                yield from captured_values(inner)


def constant_value(node: onnx.NodeProto) -> Array | None:
    """What a Constant node holds; None for sparse tensors."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return numpy_helper.to_array(value)
        case "value_float" | "value_floats":
            return np.array(value, np.float32)
        case "value_int" | "value_ints":
            return np.array(value, np.int64)
        case "value_string" | "value_strings":
            return np.array(value, object)
    return None


def int_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def float_attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((attribute.f for attribute in node.attribute if attribute.name == name), default)


def ints_attribute(node: onnx.NodeProto, name: str) -> list[int] | None:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), None)


def text_attribute(node: onnx.NodeProto, name: str, default: str) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), default)


def input_at(node: onnx.NodeProto, position: int) -> str:
    """Name of an input; empty where an optional one is left out."""
    return node.input[position] if position < len(node.input) else ""


def label(node: onnx.NodeProto) -> str:
    """How a message names a node: its operator and its name, or its first output where it has none."""
    return f"{operator_name(node)} '{node.name or (node.output[0] if node.output else '')}'"
