"""Cross-layer equalization (Nagel et al., "Data-Free Quantization", 2019): like ranges for all channels of a tensor.

An activation has one scale for all channels in eight bits, so a channel that is a thousand times smaller than its
neighbour is lost. Where only layers read it, its channels are divided by factors that the layer before takes into its
weights and bias, and the layers behind multiply their weights by the same factors: in float nothing changes. Weights
have scales per output channel here, so rows need no balance; what is balanced is the observed activation of each
channel against the weights that read it, see `channel_scales`.
"""

from collections.abc import Collection, Sequence

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.equal_outputs import difference
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.channel_scales import Reader, best_scales
from optimizer.repair.channel_statistics import Channels, ChannelStatistics, Site, channel_statistics
from optimizer.repair.junctions import Junction, Sink, junction_after
from optimizer.repair.layer_weights import LayerWeights
from optimizer.repair.output_error import opened, quantized_and_judged
from optimizer.repair.repair import Quantize, Repaired

# A junction is left alone where less than this share of its predicted error would go.
_LEAST_GAIN = 0.25


def equalize(
    graph: Graph,
    layers: Collection[str],
    quantize: Quantize,
    feeds: Sequence[Tensors],
    reference: Graph | None = None,
) -> Repaired | Declined:
    """Equalize every junction that has a layer to be quantized behind it."""
    weights = LayerWeights(graph)
    junctions = _junctions(graph, weights, layers)
    if isinstance(junctions, Declined):
        return junctions
    sites = [_site(weights, sink) for junction in junctions for sink in junction.sinks]
    statistics = channel_statistics(graph, sites, feeds)
    scaled = [_scale(weights, junction, statistics) for junction in junctions]
    if not any(scaled):
        return Declined("the channels of every activation are in balance")
    equalized = weights.graph()
    reason = _why_not_equal(graph, equalized, feeds[:1])
    if not weights.is_finite() or reason:
        return Declined(f"equalized weights would change the float model: {reason or 'they overflow'}")
    detail = f"{sum(scaled)} of {len(junctions)} activations equalized"
    return quantized_and_judged(reference or graph, graph, equalized, quantize, feeds, detail)


def _junctions(graph: Graph, weights: LayerWeights, layers: Collection[str]) -> list[Junction] | Declined:
    editor = GraphEditor(graph)
    nodes = {node.name: node for node in editor.nodes}
    found = [junction_after(editor, weights, nodes[layer.name]) for layer in layers_of(graph) if layer.name in nodes]
    junctions = [each for each in found if isinstance(each, Junction) and _is_quantized(each, layers)]
    if junctions:
        return junctions
    reasons = [each.reason for each in found if isinstance(each, Declined)]
    return Declined(f"no layer feeds only layers{f': {reasons[0]}' if reasons else ''}")


def _is_quantized(junction: Junction, layers: Collection[str]) -> bool:
    return any(sink.node.name in layers for sink in junction.sinks)


def _site(weights: LayerWeights, sink: Sink) -> Site:
    groups, _, inputs, _ = weights.matrix(sink.node).shape
    return sink.node.input[0], Channels(groups * inputs, sink.node.op_type != "Conv")


def _scale(weights: LayerWeights, junction: Junction, statistics: dict[Site, ChannelStatistics]) -> bool:
    """Move the best factors from the producer to the sinks; whether there was enough to gain."""
    readers = [
        Reader(weights.matrix(sink.node), statistics[_site(weights, sink)], sink.features) for sink in junction.sinks
    ]
    scales = best_scales(readers)
    if scales.error_left > 1 - _LEAST_GAIN:
        return False
    rows = weights.matrix(junction.producer)
    weights.set_matrix(junction.producer, rows / scales.factors.reshape(*rows.shape[:2], 1, 1))
    if junction.bias.name:
        weights.set_array(junction.bias.name, _divided_bias(weights.array(junction.bias.name), scales.factors))
    for sink in junction.sinks:
        read = weights.matrix(sink.node)
        factors = np.repeat(scales.factors, sink.features).reshape(read.shape[0], 1, read.shape[2], 1)
        weights.set_matrix(sink.node, read * factors)
    return True


def _divided_bias(bias: Array, factors: Array) -> Array:
    """A bias of one number for all channels gets one for each."""
    divided = np.broadcast_to(bias.astype(np.float64).reshape(-1), factors.shape) / factors
    return divided if bias.size == 1 else divided.reshape(bias.shape)


def _why_not_equal(graph: Graph, equalized: Graph, feeds: Sequence[Tensors]) -> str | None:
    with opened(graph, optimize=False) as before, opened(equalized, optimize=False) as after:
        return next(filter(None, (difference(before.run(feed), after.run(feed)) for feed in feeds)), None)
