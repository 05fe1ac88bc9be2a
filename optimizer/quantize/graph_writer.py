"""A graph that is written anew, node after node, with new nodes and constants between the old ones."""

from typing import Any

from onnx import NodeProto, helper, numpy_helper

from enginehouse.dtype import Array
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import captured_values

_CONTRIBUTED = "com.microsoft"


class GraphWriter:
    """A copy under the pen: `old_nodes` and `weights` are those of the given graph, which stays as it is."""

    def __init__(self, graph: Graph) -> None:
        self.model = graph.copy()
        self.old_nodes: list[NodeProto] = list(self.model.graph.node)
        self.weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._nodes: list[NodeProto] = []
        self._taken = self._all_names()

    def keep(self, node: NodeProto) -> None:
        self._nodes.append(node)

    def add(self, operator: str, inputs: list[str], output: str, name: str, **attributes: Any) -> str:
        """Add a node of the default domain; returns its output."""
        self._nodes.append(helper.make_node(operator, inputs, [output], name=self.fresh(name), **attributes))
        return output

    def add_many(self, operator: str, inputs: list[str], outputs: list[str], name: str) -> None:
        """Add a node of the default domain with several outputs."""
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=self.fresh(name)))

    def add_contributed(self, node: NodeProto) -> None:
        """Add a node of ONNX Runtime's own domain."""
        node.domain = _CONTRIBUTED
        if all(entry.domain != _CONTRIBUTED for entry in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(_CONTRIBUTED, 1))
        self._nodes.append(node)

    def constant(self, name: str, array: Array) -> str:
        """Add an initializer; returns its name."""
        found = self.fresh(name)
        self.model.graph.initializer.append(numpy_helper.from_array(array, found))
        return found

    def fresh(self, name: str) -> str:
        """A name that nothing has, as near to this one as can be; it is taken from now on."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def free(self, name: str) -> None:
        """Let a new node have the name of an old one that it stands for."""
        self._taken.discard(name)

    def finish(self) -> Graph:
        """The new graph, without the weights that nothing reads any more."""
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(self._nodes)
        read = {value.name for value in graph.output}
        for node in graph.node:
            read.update((*node.input, *captured_values(node)))
        weights = [tensor for tensor in graph.initializer if tensor.name in read]
        unread = {tensor.name for tensor in graph.initializer} - read
        inputs = [value for value in graph.input if value.name not in unread]
        del graph.initializer[:]
        del graph.input[:]
        graph.initializer.extend(weights)
        graph.input.extend(inputs)
        return Graph(self.model)

    def _all_names(self) -> set[str]:
        graph = self.model.graph
        names = {value.name for value in (*graph.input, *graph.output)} | self.weights.keys()
        for node in graph.node:
            names.update((node.name, *node.input, *node.output, *captured_values(node)))
        return names
