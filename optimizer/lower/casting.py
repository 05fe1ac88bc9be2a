"""Write a graph in which some nodes are half: their tensors under new names, casts where the precision changes."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import captured_values
from optimizer.lower.float_rules import FloatFacts, operands, results

_NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_ONNX_CODE = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def with_casts(facts: FloatFacts, lowered: frozenset[int]) -> Graph:
    """Lower the nodes at these positions. Each tensor is cast at most once, and between two of them not at all."""
    return _Casting(facts, lowered).graph()


@dataclass(frozen=True, slots=True)
class _Needs:
    """Names that are read in half, names that lowered nodes give, and those of them that are read in FP32 as well."""

    half: frozenset[str]
    given: frozenset[str]
    full: frozenset[str]


class _Casting:
    def __init__(self, facts: FloatFacts, lowered: frozenset[int]) -> None:
        self._facts = facts
        self._lowered = lowered
        self._model = facts.graph.copy()
        self._taken = _names(facts.graph)
        self._needs = self._find_needs()
        self._half_names = {name: self._fresh(name) for name in sorted(self._needs.half | self._needs.given)}

    def graph(self) -> Graph:
        graph = self._model.graph
        nodes = [self._cast_down(value.name) for value in graph.input if self._is_cast_down(value.name)]
        for position, node in enumerate(graph.node):
            nodes += self._rewritten(position, node)
        del graph.node[:]
        graph.node.extend(nodes)
        self._lower_constants()
        self._drop_what_nobody_reads()
        return Graph(self._model)

    def _find_needs(self) -> _Needs:
        half: set[str] = set()
        given: set[str] = set()
        full: set[str] = set(self._facts.pinned)
        for position, node in enumerate(self._model.graph.node):
            lowered = position in self._lowered
            moved = dict(operands(node, self._facts)) if lowered else {}
            half.update(moved.values())
            full.update(name for place, name in enumerate(node.input) if place not in moved)
            given.update(name for _, name in results(node, self._facts) if lowered)
        return _Needs(frozenset(half), frozenset(given), frozenset(full & given))

    def _rewritten(self, position: int, node: NodeProto) -> list[NodeProto]:
        """The node with the casts that follow it."""
        found = NodeProto()
        found.CopyFrom(node)
        if position not in self._lowered:
            return [found, *(self._cast_down(name) for name in node.output if self._is_cast_down(name))]
        for place, name in operands(node, self._facts):
            found.input[place] = self._half_names[name]
        given = list(results(node, self._facts))
        for place, name in given:
            found.output[place] = self._half_names[name]
        up = [name for _, name in given if name in self._needs.full]
        return [found, *(self._cast(self._half_names[name], name, TensorProto.FLOAT) for name in up)]

    def _lower_constants(self) -> None:
        for name in sorted(self._needs.half & set(self._facts.constants)):
            array = numpy_helper.to_array(self._facts.constants[name]).astype(_NUMPY[self._facts.precision])
            self._model.graph.initializer.append(numpy_helper.from_array(array, self._half_names[name]))

    def _drop_what_nobody_reads(self) -> None:
        """Remove the FP32 twins of lowered constants, and types of tensors that are gone."""
        graph = self._model.graph
        gone = self._needs.half & set(self._facts.constants)
        gone -= {name for node in graph.node for name in (*node.input, *captured_values(node))}
        gone -= {value.name for value in graph.output}
        untyped = gone | (self._needs.given - self._needs.full)
        _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in gone])
        _keep(graph.input, [value for value in graph.input if value.name not in gone])
        _keep(graph.node, [node for node in graph.node if not gone.intersection(node.output)])
        _keep(graph.value_info, [value for value in graph.value_info if value.name not in untyped])

    def _is_cast_down(self, name: str) -> bool:
        return name in self._needs.half and name not in self._facts.constants

    def _cast_down(self, name: str) -> NodeProto:
        return self._cast(name, self._half_names[name], _ONNX_CODE[self._facts.precision])

    def _cast(self, source: str, target: str, code: int) -> NodeProto:
        return helper.make_node("Cast", [source], [target], name=self._fresh(f"{target}_cast"), to=code)

    def _fresh(self, name: str) -> str:
        found = f"{name}_{self._facts.precision}"
        while found in self._taken:
            found += "_"
        self._taken.add(found)
        return found


def _keep(repeated: Any, kept: list[Any]) -> None:
    del repeated[:]
    repeated.extend(kept)


def _names(graph: Graph) -> set[str]:
    """Every name in use, of values and of nodes."""
    model = graph.model.graph
    names = {name for node in model.node for name in (node.name, *node.input, *node.output, *captured_values(node))}
    return names | {tensor.name for tensor in model.initializer} | {value.name for value in model.input}
