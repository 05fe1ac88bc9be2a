from collections.abc import Callable

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.repair.segment_plan import depths, in_order, planned

CHAIN = "(float[n, 2] x) => (float[n, 2] y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Add(c, a) }"


def chain(plant: Callable[..., Graph]) -> Graph:
    return plant(CHAIN, {"w": np.eye(2)})


def names(graph: Graph, positions: tuple[int, ...]) -> list[str]:
    return [graph.model.graph.node[position].output[0] for position in positions]


def test_every_node_runs_once_and_only_what_is_read_later_is_kept(plant: Callable[..., Graph]) -> None:
    graph = chain(plant)
    first, second, last = planned(graph, [["a"], ["c"], ["y"]])
    assert [names(graph, each.nodes) for each in (first, second, last)] == [["a"], ["b", "c"], ["y"]]
    assert (first.reads, second.reads, last.reads) == ((), ("a",), ("a", "c"))
    assert (first.keeps, second.keeps, last.keeps) == (("a",), ("c",), ("y",))


def test_what_no_stop_needs_never_runs(plant: Callable[..., Graph]) -> None:
    graph = chain(plant)
    assert [names(graph, each.nodes) for each in planned(graph, [["b"]])] == [["a", "b"]]


def test_a_value_that_an_earlier_segment_made_is_kept_for_its_stop(plant: Callable[..., Graph]) -> None:
    first, second = planned(chain(plant), [["c"], ["b"]])
    assert first.keeps == ("b", "c")
    assert second.nodes == ()


def test_what_depends_on_no_input_is_computed_again_and_not_kept(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 2] x) => (float[n, 2] y) { v = Neg(w) a = MatMul(x, v) y = MatMul(a, v) }"
    graph = plant(text, {"w": np.eye(2)})
    first, second = planned(graph, [["a"], ["y"]])
    assert [names(graph, each.nodes) for each in (first, second)] == [["v", "a"], ["v", "y"]]
    assert first.keeps == ("a",)


def test_values_that_a_subgraph_reads_are_kept(plant: Callable[..., Graph]) -> None:
    text = """(float[n, 2] x, bool t) => (float[n, 2] y) {
        a = Relu(x) b = Neg(a)
        y = If(t) <
            then_branch = g1 () => (float[n, 2] p) { p = Add(a, b) },
            else_branch = g2 () => (float[n, 2] q) { q = Identity(b) }
        >
    }"""
    first, second = planned(plant(text, {}), [["b"], ["y"]])
    assert first.keeps == ("a", "b")
    assert second.reads == ("a", "b")


def test_nodes_at_the_end_of_the_list_are_put_where_they_belong(plant: Callable[..., Graph]) -> None:
    graph = chain(plant)
    model = graph.copy()
    del model.graph.node[:]
    model.graph.node.extend(reversed(graph.model.graph.node))
    assert [node.output[0] for node in in_order(Graph(model)).model.graph.node] == ["a", "b", "c", "y"]


def test_the_depth_of_a_node_counts_those_on_the_longest_way_to_it(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 2] x) => (float[n, 2] y) { a = Relu(x) b = Neg(x) c = Relu(a) d = Add(b, c) y = Neg(d) }"
    graph = plant(text, {})
    stops = {name: name for name in ("a", "b", "c", "y")}
    assert depths(graph, stops) == {"a": 0, "b": 0, "c": 1, "y": 2}
