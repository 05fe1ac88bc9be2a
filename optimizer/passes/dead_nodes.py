"""Remove what no output of the graph needs: nodes, and then weights.

    y = f(x), z = g(x, W), only y is an output  ->  y = f(x)

Graph inputs stay, needed or not: they are the model's interface.
"""

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import captured_values
from optimizer.passes.graph_editor import GraphEditor
from optimizer.passes.rewrite_pass import Rewritten


def remove_dead_nodes(graph: Graph) -> Rewritten:
    editor = GraphEditor(graph)
    needed = {value.name for value in graph.model.graph.output}
    dead = []
    for node in reversed(editor.nodes):
        if needed.isdisjoint(node.output):
            dead.append(node)
        else:
            needed.update(node.input, captured_values(node))
    if dead:
        editor.replace(dead)
    editor.drop_weights([name for name in editor.weight_names if name not in needed])
    return editor.rewritten()
