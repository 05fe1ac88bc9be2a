"""Which nodes of a graph run for which stop, and which values have to wait for a later one; all without running."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import onnx

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import captured_values


@dataclass(frozen=True, slots=True)
class Segment:
    """Positions of the nodes to run, the values to read that earlier segments kept, and the values to keep."""

    nodes: tuple[int, ...]
    reads: tuple[str, ...]
    keeps: tuple[str, ...]


def in_order(graph: Graph) -> Graph:
    """The same graph with every node behind those that it needs: quantizers append theirs at the end."""
    nodes = graph.model.graph.node
    makers = {value: position for position, node in enumerate(nodes) for value in node.output if value}
    waits_for = {
        position: {makers[name] for name in needs(node) if name in makers} for position, node in enumerate(nodes)
    }
    order = list(TopologicalSorter(waits_for).static_order())
    model = graph.copy()
    del model.graph.node[:]
    model.graph.node.extend(nodes[position] for position in order)
    return Graph(model)


def depths(graph: Graph, stops: Mapping[str, str]) -> dict[str, int]:
    """For each node (name to output in `stops`) how many of the others lie on the longest way to it."""
    ends = {value: name for name, value in stops.items()}
    depth: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in graph.model.graph.node:
        reached = max((depth.get(name, 0) for name in needs(node)), default=0)
        for value in node.output:
            depth[value] = reached
            if value in ends:
                found[ends[value]] = reached
                depth[value] = reached + 1
    return found


def planned(graph: Graph, stops: Sequence[Sequence[str]]) -> list[Segment]:
    """Plan one segment for each stop; the nodes of the graph are in order."""
    nodes = graph.model.graph.node
    makers = {value: position for position, node in enumerate(nodes) for value in node.output if value}
    moving = _moving(graph)
    done: set[int] = set()
    runs, reads = [], []
    for stop in stops:
        wanted = _ancestors(graph, stop, makers, done)
        runs.append(wanted)
        needed = {name for position in wanted for name in needs(nodes[position])}
        reads.append({name for name in needed if name in moving and makers.get(name) in done})
        done |= {position for position in wanted if set(nodes[position].output) & moving}
    segments = []
    for number, wanted in enumerate(runs):
        later: set[str] = set().union(*reads[number + 1 :], *stops[number:])
        made = {value for position in wanted for value in nodes[position].output if value in moving}
        segments.append(Segment(tuple(sorted(wanted)), tuple(sorted(reads[number])), tuple(sorted(made & later))))
    return segments


def _ancestors(graph: Graph, values: Sequence[str], makers: Mapping[str, int], done: set[int]) -> set[int]:
    """Nodes that the values need and that have not run; those that depend on no input run again wherever needed."""
    found: set[int] = set()
    open_values = list(values)
    while open_values:
        position = makers.get(open_values.pop())
        if position is not None and position not in found and position not in done:
            found.add(position)
            open_values.extend(needs(graph.model.graph.node[position]))
    return found


def _moving(graph: Graph) -> set[str]:
    """Values that depend on an input."""
    moving = {spec.name for spec in graph.inputs}
    for node in graph.model.graph.node:
        if any(name in moving for name in needs(node)):
            moving.update(name for name in node.output if name)
    return moving


def needs(node: onnx.NodeProto) -> Iterator[str]:
    """Every value that the node reads, those of its subgraphs included."""
    yield from (name for name in node.input if name)
    yield from captured_values(node)
