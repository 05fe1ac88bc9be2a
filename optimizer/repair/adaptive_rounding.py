"""AdaRound-style rounding (Nagel et al., 2020) of the layers whose weights suffer most, see `rounding`.

The integers are written into the float weights as multiples of their scale, and the weight that the scale is read from
stays, so that plain rounding to nearest finds them again. Layers go in the order of the graph, each on the inputs that
the quantized graph gives it once the layers before have been rounded. A quarter of the rows is kept apart: an output
whose new integers are not better there as well keeps its nearest ones.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.layer_samples import layer_samples
from optimizer.repair.layer_weights import LayerWeights
from optimizer.repair.output_error import judged
from optimizer.repair.repair import Quantize, Repaired
from optimizer.repair.rounding_targets import RoundingTarget, rounding_targets, worst_targets
from optimizer.repair.segment_plan import depths, in_order
from optimizer.repair.segments import Segments

# Positions of convolutions and sequences that a Gram matrix is made of, as a multiple of its size.
_SAMPLES_PER_INPUT, _LEAST_SAMPLES = 4, 4096
_CHECKED_EVERY = 4


def round_adaptively(
    graph: Graph,
    layers: Collection[str],
    quantize: Quantize,
    feeds: Sequence[Tensors],
    reference: Graph | None = None,
) -> Repaired | Declined:
    """Round the worst layers anew."""
    quantized = quantize(graph)
    if isinstance(quantized, Declined):
        return quantized
    quantized, weights = in_order(quantized), LayerWeights(graph)
    targets = rounding_targets(graph, quantized, weights, layers)
    if not targets:
        return Declined("no layer has INT8 weights of its own whose inputs can be told")
    worst = worst_targets(quantized, targets, feeds)
    changed = _rounded(quantized, worst, feeds)
    if not changed:
        return Declined("nearest rounding could not be bettered in any layer")
    repaired = weights.graph()
    again = quantize(repaired)
    if isinstance(again, Declined):
        return again
    detail = f"{changed} weights in the {len(worst)} worst layers rounded anew"
    return judged(reference or graph, quantized, repaired, again, feeds, detail)


def _rounded(quantized: Graph, targets: Sequence[RoundingTarget], feeds: Sequence[Tensors]) -> int:
    """Round each layer in turn; returns how many integers are not the nearest ones."""
    depth = depths(quantized, {target.name: target.quantized.node.output[0] for target in targets})
    levels = [[each for each in targets if depth[each.name] == level] for level in range(max(depth.values()) + 1)]
    changed = 0
    with tempfile.TemporaryDirectory() as folder:
        stops = [sorted({target.activation for target in level}) for level in levels]
        segments = Segments(quantized, feeds, stops, Path(folder))
        for level in levels:
            segments.advance()
            for target in level:
                integers = target.better_integers(*_grams(target, segments, feeds))
                changed += int((integers != target.quantized.integers).sum())
                segments.replace_weight(target.quantized.name, integers)
                target.encode(integers)
    return changed


def _grams(target: RoundingTarget, segments: Segments, feeds: Sequence[Tensors]) -> tuple[Array, Array]:
    """X^T X by group: of the rows to fit, and of those to check with."""
    groups, inputs = target.groups, target.inputs
    rows = sum(len(np.atleast_1d(next(iter(feed.values())))) for feed in feeds)
    positions = -(-max(_SAMPLES_PER_INPUT * inputs, _LEAST_SAMPLES) // max(rows, 1))
    grams = np.zeros((2, groups, inputs, inputs), np.float32)
    number = 0
    for batch in segments.batches(target.activation):
        samples = layer_samples(target.node, batch, target.quantized.integers.shape[2:], positions)
        is_checked = (np.arange(len(samples)) + number) % _CHECKED_EVERY == _CHECKED_EVERY - 1
        number += len(samples)
        for part, chosen in enumerate((samples[~is_checked], samples[is_checked])):
            flat = chosen.swapaxes(0, 1).reshape(groups, -1, inputs)
            grams[part] += flat.swapaxes(1, 2) @ flat
    return grams[0], grams[1]
