"""Take repairs back on layers that stay float after all: rounded weights and corrected biases serve quantized ones."""

from collections.abc import Collection

from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.biases import bias_of
from optimizer.repair.layer_weights import LayerWeights


def with_original_layers(repaired: Graph, anchor: Graph, layers: Collection[str]) -> Graph:
    """Give these layers the weights and biases that they have in `anchor`.

    Requires that the repairs since `anchor` left nodes where they are, as adaptive rounding and bias correction do.
    They write over an initializer only where one node alone reads it, so none of another layer is touched here.
    """
    before = {node.name: node for node in anchor.model.graph.node}
    editor, weights = GraphEditor(anchor), LayerWeights(anchor)
    model = repaired.copy()
    after = {node.name: node for node in model.graph.node}
    restored: set[str] = set()
    for layer in layers:
        bias = bias_of(editor, weights, before[layer])
        for name in {layer, bias.site if bias else layer}:
            del after[name].input[:]
            after[name].input.extend(before[name].input)
            restored.update(before[name].input)
    read = {name for node in model.graph.node for name in node.input}
    originals = {tensor.name: tensor for tensor in anchor.model.graph.initializer}
    tensors = [
        originals[tensor.name] if tensor.name in restored else tensor
        for tensor in repaired.model.graph.initializer
        if tensor.name in originals or tensor.name in read
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return Graph(model)
