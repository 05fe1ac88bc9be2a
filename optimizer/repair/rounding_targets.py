"""The layers that adaptive rounding can round, which of them need it most, and the way from their weights and back."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.channel_statistics import Channels, ChannelStatistics, channel_statistics
from optimizer.repair.layer_samples import why_not_sampled
from optimizer.repair.layer_weights import LayerWeights, array_of, matrix_of
from optimizer.repair.quantized_weights import QuantizedWeights, quantized_weights
from optimizer.repair.rounding import RoundingProblem, kept_where_better, rounded

# The worst layers that together have this share of all layers' error, at most so many.
_SHARE_OF_ERROR = 0.9
_MOST_LAYERS = 32
# A wider layer's Gram matrices and their factor would take more than about a gigabyte.
_MOST_INPUTS = 6144
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class RoundingTarget:
    """A layer to round.

    Attributes:
        node: in the float graph.
        quantized: what the quantizer made of its weights.
        weights: the float graph's, which `encode` edits.
    """

    node: onnx.NodeProto
    quantized: QuantizedWeights
    weights: LayerWeights

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def activation(self) -> str:
        """What it reads in the quantized graph."""
        return str(self.quantized.node.input[0])

    @property
    def channels(self) -> Channels:
        groups, _, inputs, _ = self._integers.shape
        return Channels(groups * inputs, self.node.op_type != "Conv")

    @property
    def groups(self) -> int:
        return int(self._integers.shape[0])

    @property
    def inputs(self) -> int:
        """How many weights one output of one group has."""
        return int(self._integers.shape[2] * self._integers.shape[3])

    def error_share(self, activation: ChannelStatistics) -> float:
        """Error of the outputs as a share of their size, with inputs taken as independent."""
        matrix = self._matrix
        sizes = activation.mean_square.reshape(self.groups, 1, -1, 1)
        wrong = np.square(matrix - self._scales * self._integers) * sizes
        return float(wrong.sum() / max((np.square(matrix) * sizes).sum(), _TINY))

    def better_integers(self, fit: Array, check: Array) -> Array:
        """Round anew, as the quantized graph stores it; Gram matrices by group, of rows to fit and to check with."""
        result = np.empty(self._integers.shape)
        for group in range(self.groups):
            problem = self._problem(group, fit[group].astype(np.float64))
            better = kept_where_better(problem, rounded(problem), check[group].astype(np.float64))
            result[group] = better.reshape(result[group].shape)
        return array_of(self.node, result, self.quantized.integers.shape).astype(np.int8)

    def encode(self, integers: Array) -> None:
        """Move the weights whose integers changed onto them; none becomes larger than what its scale is read from."""
        matrix, new = self._matrix, matrix_of(self.node, integers)
        largest = self._largest(matrix)
        moved = np.clip(self._scales * new, -largest, largest)
        self.weights.set_matrix(self.node, np.where(new == self._integers, matrix, moved))

    def _problem(self, group: int, gram: Array) -> RoundingProblem:
        matrix, integers = self._matrix, self._integers.astype(np.float64)
        outputs = matrix.shape[1]
        limits = np.broadcast_to(self._largest(integers), (*matrix.shape[:2], 1, 1))
        return RoundingProblem(
            weights=matrix[group].reshape(outputs, -1),
            scales=self.quantized.scales[group],
            nearest=integers[group].reshape(outputs, -1),
            gram=gram,
            fixed=(np.abs(matrix) == self._largest(matrix))[group].reshape(outputs, -1),
            limits=limits[group].reshape(outputs),
        )

    @property
    def _matrix(self) -> Array:
        return self.weights.matrix(self.node).astype(np.float64)

    @property
    def _integers(self) -> Array:
        return matrix_of(self.node, self.quantized.integers)

    @property
    def _scales(self) -> Array:
        return self.quantized.scales[:, :, None, None]

    def _largest(self, matrix: Array) -> Array:
        """The largest number behind each scale."""
        largest: Array = np.abs(matrix).max(axis=(2, 3) if self.quantized.is_per_output else None, keepdims=True)
        return largest


def rounding_targets(
    graph: Graph, quantized: Graph, weights: LayerWeights, layers: Collection[str]
) -> list[RoundingTarget]:
    """Every layer among these that has INT8 weights of its own and inputs that can be told."""
    found = quantized_weights(quantized)
    targets = [
        RoundingTarget(node, found[node.name], weights)
        for node in graph.model.graph.node
        if node.name in layers
        and node.name in found
        and weights.is_private(node.input[1])
        and not why_not_sampled(node)
    ]
    return [target for target in targets if target.inputs <= _MOST_INPUTS]


def worst_targets(
    quantized: Graph, targets: Sequence[RoundingTarget], feeds: Sequence[Tensors]
) -> list[RoundingTarget]:
    """Those whose rounding changes their outputs most, in the order of the graph."""
    sites = {(target.activation, target.channels) for target in targets}
    statistics = channel_statistics(quantized, sites, feeds[: len(feeds) // 4 + 1])  # a ranking needs few rows
    errors = np.array([target.error_share(statistics[target.activation, target.channels]) for target in targets])
    order = np.argsort(errors, kind="stable")[::-1]
    shares = np.cumsum(errors[order]) / max(errors.sum(), _TINY)
    count = min(int(np.searchsorted(shares, _SHARE_OF_ERROR)) + 1, _MOST_LAYERS, len(targets))
    return [targets[position] for position in sorted(order[:count])]
