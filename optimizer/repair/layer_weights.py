"""The weights of Conv, Gemm and MatMul in one form, whichever way the operator lays them out, and edits to them.

matrix[group, output, input, position]: Conv's kernel positions; one group and one position for the others
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import captured_values, int_attribute, operator_name

OPERATORS = ("Conv", "Gemm", "MatMul")


class LayerWeights:
    """A working copy of a graph's FP32 weights: read and written by name, put back into a graph at the end."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tensors = {t.name: t for t in graph.model.graph.initializer if t.data_type == TensorProto.FLOAT}
        self._edited: dict[str, Array] = {}
        self._uses = Counter(name for node in graph.model.graph.node for name in node.input if name)
        self._uses.update(name for node in graph.model.graph.node for name in captured_values(node))
        self._uses.update(value.name for value in graph.model.graph.output)

    def is_private(self, name: str) -> bool:
        """Whether it is an FP32 weight that one input of one node reads, and nothing else."""
        return name in self._tensors and self._uses[name] == 1

    def is_known(self, name: str) -> bool:
        """Whether it is an FP32 weight at all."""
        return name in self._tensors

    def array(self, name: str) -> Array:
        return self._edited[name] if name in self._edited else numpy_helper.to_array(self._tensors[name])

    def set_array(self, name: str, array: Array) -> None:
        with np.errstate(over="ignore"):  # `is_finite` tells
            self._edited[name] = array.astype(np.float32)

    def scale(self, name: str, factors: Array) -> None:
        """Multiply by anything that broadcasts, computed in FP64."""
        self.set_array(name, self.array(name).astype(np.float64) * factors)

    def matrix(self, node: onnx.NodeProto) -> Array:
        return matrix_of(node, self.array(node.input[1]))

    def set_matrix(self, node: onnx.NodeProto, matrix: Array) -> None:
        self.set_array(node.input[1], array_of(node, matrix, self.array(node.input[1]).shape))

    def is_finite(self) -> bool:
        return all(np.isfinite(array).all() for array in self._edited.values())

    def graph(self) -> Graph:
        """A copy of the graph with what was edited."""
        return with_weights(self._graph, self._edited)


def with_weights(graph: Graph, arrays: Mapping[str, Array]) -> Graph:
    """A copy of the graph whose initializers of these names hold other values; unknown names are added."""
    model = graph.copy()
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, array in arrays.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if name in found:
            found[name].CopyFrom(tensor)
        else:
            model.graph.initializer.append(tensor)
    return Graph(model)


def has_matrix(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether weights of this shape have the one form for this node."""
    if operator_name(node) not in OPERATORS or int_attribute(node, "transA", 0):
        return False
    return len(shape) >= 3 if node.op_type == "Conv" else len(shape) == 2


def matrix_of(node: onnx.NodeProto, array: Array) -> Array:
    """A view in the one form; requires `has_matrix`."""
    if node.op_type == "Conv":
        groups = int_attribute(node, "group", 1)
        return array.reshape(groups, array.shape[0] // groups, array.shape[1], -1)
    rows = array if _is_output_first(node) else array.T
    return rows[None, :, :, None]


def array_of(node: onnx.NodeProto, matrix: Array, shape: tuple[int, ...]) -> Array:
    """The way back, to the operator's own layout."""
    if node.op_type == "Conv":
        return matrix.reshape(shape)
    rows = matrix[0, :, :, 0]
    return rows if _is_output_first(node) else rows.T


def output_axis(node: onnx.NodeProto) -> int:
    """Which axis of the weights counts the outputs."""
    return 0 if _is_output_first(node) else 1


def _is_output_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" or bool(int_attribute(node, "transB", 0))
