"""A copy of a graph under the knife: who makes a value, who reads it, what is known of it, and the three cuts."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph, open_shape
from optimizer.graph.nodes import captured_values, constant_value, label, operator_name
from optimizer.graph.shapes import infer_shapes, value_types
from optimizer.passes.rewrite_pass import Rewritten

FLOAT_TYPES = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)
_OLDEST_IR_WITH_PLAIN_WEIGHTS = 4


class GraphEditor:
    """The main graph of a model, to be edited; subgraphs are only looked at for the values that they read.

    `nodes` stays in topological order as long as a replacement takes the place of the last node of its pattern.
    """

    def __init__(self, graph: Graph) -> None:
        self._source = graph
        self._model = graph.copy()
        self.nodes: list[onnx.NodeProto] = list(self._model.graph.node)
        self.opset = graph.opset
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._types = value_types(infer_shapes(graph.model, is_strict=False))
        self._outputs = {value.name for value in self._model.graph.output}
        self._names = self._all_names()
        self._declined: list[Declined] = []
        self._changed = False
        self._index()

    def find(self, *op_types: str) -> list[onnx.NodeProto]:
        """The nodes of the default domain with one of these operators; a snapshot, so the caller may edit."""
        return [node for node in self.nodes if operator_name(node) in op_types]

    def producer(self, value: str) -> onnx.NodeProto | None:
        return self._producers.get(value)

    def consumers(self, value: str) -> list[onnx.NodeProto]:
        """Every node that reads the value, once for each input that it is."""
        return self._consumers.get(value, [])

    def is_output(self, value: str) -> bool:
        return value in self._outputs

    def is_fed(self, value: str) -> bool:
        """Whether the value comes from outside: a graph input or a weight."""
        return bool(value) and value not in self._producers

    def why_shared(self, value: str, reader: onnx.NodeProto) -> str | None:
        """Say who else needs the value beside `reader`; None if nobody does."""
        if self.is_output(value):
            return f"'{value}' is an output of the graph"
        if value in self._captured:
            return f"'{value}' is used inside a subgraph"
        others = [node for node in self.consumers(value) if node is not reader]
        return f"'{value}' is also used by {label(others[0])}" if others else None

    def why_not_private(self, pattern: Sequence[onnx.NodeProto]) -> str | None:
        """Say who needs a value from inside a pattern, whose last node alone may be heard outside; None if nobody."""
        members = {id(node) for node in pattern}
        for value in (name for node in pattern[:-1] for name in node.output if name):
            if self.is_output(value):
                return f"'{value}' is an output of the graph"
            if value in self._captured:
                return f"'{value}' is used inside a subgraph"
            for reader in self.consumers(value):
                if id(reader) not in members:
                    return f"'{value}' is also used by {label(reader)}"
        return None

    def reader(self, value: str, op_type: str) -> onnx.NodeProto | None:
        """The first reader with this operator, if there is one; `why_not_private` tells of the others."""
        return next((node for node in self.consumers(value) if operator_name(node) == op_type), None)

    def made_by(self, value: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes the value, if it has one of these operators."""
        node = self._producers.get(value)
        return node if node is not None and operator_name(node) in op_types else None

    def scalar(self, value: str, rank: int) -> float | None:
        """The single number that a constant holds, where it cannot raise the rank of what it meets."""
        constant = self.constant(value)
        if constant is None or constant.size != 1 or constant.ndim > rank or constant.dtype == object:
            return None
        return float(constant.reshape(-1)[0])

    def is_captured(self, value: str) -> bool:
        return value in self._captured

    def constant(self, value: str) -> Array | None:
        """The value itself where it is known before any feed; None otherwise."""
        if value in self._weights:
            return numpy_helper.to_array(self._weights[value])
        node = self._producers.get(value)
        if node is None or operator_name(node) != "Constant":
            return None
        return constant_value(node)

    def shape(self, value: str) -> tuple[int, ...] | None:
        """Known shape with -1 for open dimensions; None where not even the rank is known."""
        if value in self._weights:
            return tuple(self._weights[value].dims)
        known = self._types.get(value)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        return open_shape(known.tensor_type.shape.dim)

    def element_type(self, value: str) -> int:
        """ONNX element type; 0 where unknown."""
        if value in self._weights:
            return self._weights[value].data_type
        known = self._types.get(value)
        return known.tensor_type.elem_type if known is not None else 0

    def add_weight(self, name: str, array: Array) -> str:
        """Add an initializer; returns its name, made unique."""
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._weights[unique] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), unique)
        self._names.add(unique)
        return unique

    def set_weight(self, name: str, array: Array) -> None:
        """Give a value, whose producer the caller removes, a fixed content under the same name."""
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)

    def drop_weights(self, names: Sequence[str]) -> None:
        for name in names:
            del self._weights[name]
            self._changed = True

    @property
    def weight_names(self) -> list[str]:
        return list(self._weights)

    def replace(self, old: Sequence[onnx.NodeProto], new: onnx.NodeProto | None = None) -> None:
        """Take nodes out; `new` takes the place of the last of them in the order of the graph."""
        gone = {id(node) for node in old}
        last = max(position for position, node in enumerate(self.nodes) if id(node) in gone)
        kept: list[onnx.NodeProto] = []
        for position, node in enumerate(self.nodes):
            if position == last and new is not None:
                kept.append(new)
            elif id(node) not in gone:
                kept.append(node)
        self.nodes = kept
        self._changed = True
        self._index()

    def rename(self, old: str, new: str) -> None:
        """Make every node of the main graph that reads or makes `old` read or make `new`."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = new
        self._changed = True
        self._index()

    def decline(self, node: onnx.NodeProto, reason: str) -> None:
        self._declined.append(Declined(reason, label(node)))

    def rewritten(self) -> Rewritten:
        """Put the edited graph together."""
        if not self._changed:
            return Rewritten(self._source, changed=False, declined=tuple(self._declined))
        graph = self._model.graph
        nodes, weights = [_copy(node) for node in self.nodes], list(self._weights.values())
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(weights)
        self._free_weights_from_inputs()
        return Rewritten(Graph(self._model), changed=True, declined=tuple(self._declined))

    def _free_weights_from_inputs(self) -> None:
        """Since IR 4 a weight need not be listed as an input, and only then may a pass add or remove one."""
        graph = self._model.graph
        fed = {spec.name for spec in self._source.inputs}
        kept = [value for value in graph.input if value.name in fed]
        if len(kept) != len(graph.input):
            values = [_copy_value(value) for value in kept]
            del graph.input[:]
            graph.input.extend(values)
        self._model.ir_version = max(self._model.ir_version, _OLDEST_IR_WITH_PLAIN_WEIGHTS)

    def _index(self) -> None:
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        self._captured: set[str] = set()
        for node in self.nodes:
            for name in node.input:
                if name:
                    self._consumers.setdefault(name, []).append(node)
            self._captured.update(captured_values(node))

    def _all_names(self) -> set[str]:
        graph = self._model.graph
        names = {value.name for value in (*graph.input, *graph.output)} | set(self._weights)
        names |= {sparse.values.name for sparse in graph.sparse_initializer}
        for node in graph.node:
            names |= {*node.input, *node.output, *captured_values(node)}
        return names


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _copy_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    return copied
