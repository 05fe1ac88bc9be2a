"""Which nodes of a graph a kernel of ONNX Runtime was made from.

ONNX Runtime keeps no record of its fusions, but it keeps names: a kernel's outputs, or the kernel itself, are called
after a tensor or a node of the graph, with words put around it. From the tensor that a kernel ends with, its nodes are
found by walking backwards to where other kernels begin or end, at most to one node that multiplies. What is left over
after that was fused into the kernel before it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from onnx import NodeProto

from optimizer.graph.graph import Graph
from optimizer.graph.layers import LAYER_OPERATORS

# What ONNX Runtime 1.31 puts before and behind a name that it makes from another.
_AFFIXES = re.compile(
    r"^(InsertedPrecisionFreeCast_|FusedBack_|fused )|(_nchwc|_token_\d+|_quant|/duplicated|/MatMulScaleFusion/?"
    r"|_q_to_dq|_pre_q|_QuantizeLinear_Output|_DequantizeLinear_Output)$"
)
# They move, mark or hold values; what is asked about is what computes.
SILENT = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast", "Constant"))
_MOVING_KERNELS = frozenset(("ReorderInput", "ReorderOutput", *SILENT))


class Origins:
    """The names of a graph, and the walk through it.

    Args:
        graph: what the engine was made from.
    """

    def __init__(self, graph: Graph) -> None:
        self._nodes = graph.model.graph.node
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        self._by_name = {node.name: node for node in self._nodes if node.name}

    def of_kernels(self, kernels: Sequence[NodeProto]) -> list[tuple[str, ...]]:
        """Names of the nodes that each kernel computes, in the order of the graph; no node belongs to two kernels.

        Args:
            kernels: nodes of the graph that ONNX Runtime made, in its order.
        """
        ends = [self._ends(kernel) for kernel in kernels]
        borders = {name for group in ends for name in group}
        borders |= {name for kernel in kernels for given in kernel.input if (name := self._plain(given))}
        owners: dict[str, int] = {}
        for position, kernel in enumerate(kernels):
            if kernel.op_type not in _MOVING_KERNELS:
                owners |= dict.fromkeys(self._region(ends[position], borders, owners, kernel.op_type), position)
        self._hand_on(owners)
        regions: list[list[str]] = [[] for _ in kernels]
        for node in self._nodes:
            if _first_output(node) in owners and node.name and node.op_type not in SILENT:
                regions[owners[_first_output(node)]].append(node.name)
        return [tuple(names) for names in regions]

    def _ends(self, kernel: NodeProto) -> list[str]:
        """The tensors of the graph that a kernel gives."""
        found = [name for given in kernel.output if (name := self._plain(given))]
        if not found and (name := self._plain(kernel.name)):
            found = [name]
        if not found:
            found = [node.output[0] for node in self._named(kernel)]
        return [self._quantized(name) if _gives_integers(kernel) else name for name in found]

    def _region(self, ends: Sequence[str], borders: set[str], owners: Mapping[str, int], operator: str) -> set[str]:
        """First outputs of the nodes behind some tensors."""
        found: set[str] = set()
        waiting = list(ends)
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is None or _first_output(node) in owners or _first_output(node) in found:
                continue
            found.add(_first_output(node))
            if node.op_type not in LAYER_OPERATORS or "Attention" in operator:
                waiting += [name for name in node.input if name not in borders]
        return found

    def _hand_on(self, owners: dict[str, int]) -> None:
        for node in self._nodes:
            makers = [self._makers[name] for name in node.input if name in self._makers]
            before = [owners[_first_output(maker)] for maker in makers if _first_output(maker) in owners]
            if before and _first_output(node) not in owners:
                owners[_first_output(node)] = max(before)

    def _plain(self, name: str) -> str:
        """The tensor that a name was made from; empty if it was made from none."""
        return next((word for word in _words(name) if word in self._makers), "")

    def _named(self, kernel: NodeProto) -> list[NodeProto]:
        words = [word for name in (kernel.name, *kernel.output) for word in _words(name)]
        return [self._by_name[word] for word in words if word in self._by_name][:1]

    def _quantized(self, tensor: str) -> str:
        """The end of the chain from a float tensor to its QuantizeLinear, which an integer kernel contains."""
        name = tensor
        while (readers := self._readers.get(name)) and len(readers) == 1 and name in self._makers:
            if self._makers[name].op_type == "QuantizeLinear":
                return name
            name = readers[0].output[0]
        return tensor

    @cached_property
    def _readers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found


def _words(name: str) -> Iterator[str]:
    """A name, and what is left of it as one affix after another is taken away."""
    while name:
        yield name
        shorter = _AFFIXES.sub("", name, count=1)
        if shorter == name:
            return
        name = shorter


def _first_output(node: NodeProto) -> str:
    """What stands for a node here, because names of nodes may be missing."""
    return node.output[0] if node.output else ""


def _gives_integers(kernel: NodeProto) -> bool:
    return kernel.op_type.startswith(("QLinear", "QGemm", "Nhwc"))
