"""Where eight bits begin and end in a graph: which values are held as integers, and who reads them so.

A layer takes its activation as an integer. What else is held depends on how the engine fuses; the figures are CPU
time on an AMD Zen 4, one thread, batch 4 or 8. ONNX Runtime has no eight-bit convolution that gives out floats, and
fuses a Gemm that does only at the end of a graph, so their results are held too; OpenVINO fuses an activation
function into a convolution only if nothing lies between them (chains of SiLU, HardSwish, LeakyRelu or Sigmoid took 6
to 15 % less). Additions and concatenations of held values are computed in eight bits for both: a ResNet-50 took 16 %
less in ONNX Runtime, 21 % less in OpenVINO. Mul, and Sigmoid before it, saved ONNX Runtime 8 to 13 % in SiLU and
squeeze-and-excitation blocks and cost OpenVINO 8 to 20 %. Products of two activations would save a BERT 6 and 11 %,
but stay in float: they are no layers, so a search could not take them back. TensorRT wants the results of layers in
float and the other side of a residual addition in eight bits (as its documentation says; not measured).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from optimizer.graph.graph import Graph
from optimizer.graph.layers import Layer
from optimizer.graph.nodes import DEFAULT_DOMAINS, captured_values
from optimizer.trial import EngineName

# Their results are those of their first input, in another order or fewer of them: one range serves both.
_PASSING_ON = frozenset(("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_JOINING: Mapping[EngineName, frozenset[str]] = {
    "onnxruntime": frozenset(("Add", "Concat", "Mul", "Sigmoid")),
    "openvino": frozenset(("Add", "Concat")),
}
# An engine fuses them into the layer before, so the layer's result is theirs.
_FUSED = frozenset(("Relu", "Clip"))


@dataclass(frozen=True, slots=True)
class Placement:
    """Which values are held in eight bits.

    Attributes:
        origins: every held value, with the value whose range it has: mostly itself.
        given_out: held values that an eight-bit node gives out, so that whoever reads them gets eight bits.
        readers: by other held values, the nodes that read them in eight bits, by name.
        nodes: what computes in eight bits beside the layers, by name.
    """

    origins: Mapping[str, str]
    given_out: frozenset[str]
    readers: Mapping[str, frozenset[str]]
    nodes: tuple[str, ...]


def place(graph: Graph, layers: Collection[Layer], floats: Collection[str], engine: EngineName) -> Placement:
    """Decide for a graph whose nodes have names.

    Args:
        graph: the float graph.
        layers: those that shall compute in eight bits.
        floats: every value that is FP32 and no weight.
        engine: what will run the result.
    """
    places = _Places(graph, floats)
    for layer in layers:
        places.hold(layer.activation, layer.name)
    results = {places.result(layer.output) for layer in layers if layer.operator == "Conv"}
    if engine == "onnxruntime":
        for result in results | {places.result(layer.output) for layer in layers if places.is_inner_gemm(layer)}:
            places.give_out(result)
    if engine in _JOINING:
        places.join(results, _JOINING[engine])
    else:
        places.read_residuals(results)
    return places.placement()


class _Places:
    """The decision, as it grows."""

    def __init__(self, graph: Graph, floats: Collection[str]) -> None:
        self._graph = graph
        self._floats = floats
        self._producers = {name: node for node in graph.model.graph.node for name in node.output if name}
        self._consumers: dict[str, list[NodeProto]] = {}
        self._heard_elsewhere = {value.name for value in graph.model.graph.output}
        for node in graph.model.graph.node:
            self._heard_elsewhere.update(captured_values(node))
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._origins: dict[str, str] = {}
        self._given_out: set[str] = set()
        self._readers: dict[str, set[str]] = {}
        self._nodes: dict[str, None] = {}

    def hold(self, value: str, reader: str) -> None:
        """Hold what a node reads, from before the nodes that only pass it on."""
        chain = []
        self._readers.setdefault(value, set()).add(reader)
        while (node := self._producers.get(value)) is not None and self._passes_on(node):
            chain.append(value)
            self._nodes[node.name] = None
            value = node.input[0]
            self._readers.setdefault(value, set()).add(node.name)
        self._given_out.update(chain)
        self._origins.update(dict.fromkeys((value, *chain), value))

    def give_out(self, value: str) -> None:
        self._origins.setdefault(value, value)
        self._given_out.add(value)

    def is_inner_gemm(self, layer: Layer) -> bool:
        return layer.operator == "Gemm" and self.result(layer.output) not in self._heard_elsewhere

    def result(self, output: str) -> str:
        """What a layer gives out once an activation function is fused into it."""
        node = self._only_reader(output)
        return node.output[0] if node is not None and node.op_type in _FUSED else output

    def join(self, results: set[str], operators: frozenset[str]) -> None:
        """Let operators compute in eight bits where all they read is held so, or could be; in the graph's order."""
        for node in self._graph.model.graph.node:
            if node.op_type not in operators or node.domain not in DEFAULT_DOMAINS:
                continue
            given = [name for name in node.input if name in results]
            if given and all(name in results or name in self._origins for name in node.input) and self._pays(node):
                for name in given:
                    self.give_out(name)
                for name in node.input:
                    self.hold(name, node.name)
                joined = self.result(node.output[0])
                self.give_out(joined)
                self._nodes[node.name] = None
                results.add(joined)

    def read_residuals(self, results: set[str]) -> None:
        """Let an addition to a layer's float result read its other side in eight bits, where that is held anyway."""
        for node in self._graph.model.graph.node:
            if node.op_type == "Add" and any(name in results and name not in self._origins for name in node.input):
                for name in node.input:
                    if name in self._origins:
                        self._readers.setdefault(name, set()).add(node.name)

    def placement(self) -> Placement:
        readers = {name: frozenset(found) for name, found in self._readers.items() if name not in self._given_out}
        order = [*(value.name for value in self._graph.model.graph.input), *self._producers]
        origins = {name: self._origins[name] for name in order if name in self._origins}
        return Placement(origins, frozenset(self._given_out), readers, tuple(self._nodes))

    def _pays(self, node: NodeProto) -> bool:
        """Not where the world reads the result, nor for a Sigmoid that no product in eight bits can follow."""
        if self.result(node.output[0]) in self._heard_elsewhere:
            return False
        readers = self._consumers.get(node.output[0], [])
        return node.op_type != "Sigmoid" or all(reader.op_type == "Mul" for reader in readers)

    def _passes_on(self, node: NodeProto) -> bool:
        if node.op_type not in _PASSING_ON or node.domain not in DEFAULT_DOMAINS or any(node.output[1:]):
            return False
        return node.input[0] in self._floats

    def _only_reader(self, value: str) -> NodeProto | None:
        readers = self._consumers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self._heard_elsewhere else None
