"""The layers of a graph: the nodes that compute with weights, each of which can have a precision of its own."""

from dataclasses import dataclass

from onnx import NodeProto

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import DEFAULT_DOMAINS, input_at

# Where the weights lie among the inputs of each operator that computes with some.
_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
LAYER_OPERATORS = frozenset(_WEIGHT_INPUTS)


@dataclass(frozen=True, slots=True)
class Layer:
    """One node with weights.

    Attributes:
        name: the node's, unique in its graph.
        operator: its ONNX operator.
        activation: the tensor that it computes on.
        weights: its weight initializers, biases not included.
        output: its first output.
    """

    name: str
    operator: str
    activation: str
    weights: tuple[str, ...]
    output: str


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """List the layers in the order of the graph; `graph` is one whose nodes have names (see `named_graph`)."""
    initializers = {tensor.name for tensor in graph.model.graph.initializer}
    return tuple(_layer(node) for node in graph.model.graph.node if _has_weights(node, initializers))


def named_graph(graph: Graph) -> Graph:
    """The same graph with a name on every node, because layers are spoken of by name."""
    model = graph.copy()
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{position}"
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name
    return Graph(model)


def _has_weights(node: NodeProto, initializers: set[str]) -> bool:
    positions = _WEIGHT_INPUTS.get(node.op_type, ()) if node.domain in DEFAULT_DOMAINS else ()
    return bool(positions) and all(input_at(node, position) in initializers for position in positions)


def _layer(node: NodeProto) -> Layer:
    weights = tuple(node.input[position] for position in _WEIGHT_INPUTS[node.op_type])
    return Layer(node.name, node.op_type, node.input[0], weights, node.output[0])
