"""Full bias correction with re-estimation (Nagel et al., "Data-Free Quantization", 2019, on real rows).

Quantization moves the mean of a layer's outputs, and the move grows from layer to layer. Layer after layer, in the
order of the graph, the mean of each output channel of the quantized graph, whose earlier layers are corrected already,
is brought back to the float graph's by taking the difference from the bias. Layers at equal depth go together.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.biases import Bias, bias_of, with_biases
from optimizer.repair.channel_statistics import Channels, ChannelStatistics, channel_statistics
from optimizer.repair.layer_weights import LayerWeights
from optimizer.repair.output_error import judged
from optimizer.repair.repair import Quantize, Repaired
from optimizer.repair.segment_plan import depths, in_order
from optimizer.repair.segments import Segments


def correct_biases(
    graph: Graph,
    layers: Collection[str],
    quantize: Quantize,
    feeds: Sequence[Tensors],
    reference: Graph | None = None,
) -> Repaired | Declined:
    """Correct the bias of every quantized layer that has one, or a place for one."""
    reference = reference or graph
    quantized = quantize(graph)
    if isinstance(quantized, Declined):
        return quantized
    quantized = in_order(quantized)
    biases = _biases(graph, layers, _sites(quantized))
    if not biases:
        return Declined("no quantized layer has a bias, or a place for one")
    expected = _observed(reference, biases, feeds)
    shifts = _shifts(quantized, biases, expected, feeds)
    corrected = with_biases(graph, [(bias, bias.values - shifts[bias.site]) for bias in biases])
    again = quantize(corrected)
    if isinstance(again, Declined):
        return again
    before, after = (_mean_shift(expected, _observed(each, biases, feeds)) for each in (quantized, again))
    detail = f"{len(biases)} layers, mean shift {before:.3g} -> {after:.3g}"
    return judged(reference, quantized, corrected, again, feeds, detail)


def _biases(graph: Graph, layers: Collection[str], known: Collection[str]) -> list[Bias]:
    """Those whose site the quantized graph has too."""
    editor, weights = GraphEditor(graph), LayerWeights(graph)
    nodes = {node.name: node for node in editor.nodes}
    found = [bias_of(editor, weights, nodes[each.name]) for each in layers_of(graph) if each.name in layers]
    return [bias for bias in found if bias is not None and bias.site in known]


def _sites(graph: Graph) -> dict[str, str]:
    """First output by node name. The quantizer renames values, as it does where it takes a Relu away, but no nodes."""
    return {node.name: node.output[0] for node in graph.model.graph.node if node.output}


def _observed(graph: Graph, biases: Sequence[Bias], feeds: Sequence[Tensors]) -> dict[str, ChannelStatistics]:
    """Statistics of each bias's site, by the name of its node."""
    sites = _sites(graph)
    found = channel_statistics(graph, [(sites[bias.site], bias.channels) for bias in biases], feeds)
    return {bias.site: found[sites[bias.site], bias.channels] for bias in biases}


def _shifts(
    quantized: Graph, biases: Sequence[Bias], expected: Mapping[str, ChannelStatistics], feeds: Sequence[Tensors]
) -> dict[str, Array]:
    """How far each site's mean is off by channel, once everything before it has been put right."""
    sites = _sites(quantized)
    depth = depths(quantized, {bias.site: sites[bias.site] for bias in biases})
    levels = [[bias for bias in biases if depth[bias.site] == level] for level in range(max(depth.values()) + 1)]
    shifts: dict[str, Array] = {}
    with tempfile.TemporaryDirectory() as folder:
        stops = [[sites[bias.site] for bias in level] for level in levels]
        segments = Segments(quantized, feeds, stops, Path(folder))
        for level in levels:
            segments.advance()
            for bias in level:
                mean = _mean(segments, sites[bias.site], bias.channels)
                shifts[bias.site] = mean - expected[bias.site].mean
                segments.subtract(sites[bias.site], _broadcastable(shifts[bias.site], segments, sites[bias.site], bias))
    return shifts


def _mean(segments: Segments, value: str, channels: Channels) -> Array:
    total, positions = np.zeros(channels.count), 0
    for array in segments.batches(value):
        axis = array.ndim - 1 if channels.is_last else 1
        total += array.sum(axis=tuple(each for each in range(array.ndim) if each != axis), dtype=np.float64)
        positions += array.size // channels.count
    mean: Array = total / max(positions, 1)
    return mean


def _broadcastable(shift: Array, segments: Segments, value: str, bias: Bias) -> Array:
    rank = next(iter(segments.batches(value))).ndim
    return shift if bias.channels.is_last else shift.reshape(-1, *(1,) * (rank - 2))


def _mean_shift(expected: Mapping[str, ChannelStatistics], found: Mapping[str, ChannelStatistics]) -> float:
    """Mean over the layers of the shift's size, as a share of the size of the layer's outputs."""
    shares = [
        float(np.linalg.norm(found[site].mean - want.mean) / max(np.sqrt(want.mean_square.sum()), 1e-30))
        for site, want in expected.items()
    ]
    return sum(shares) / len(shares)
