"""Choose the factor by which each channel of an activation is divided, and the weights that read it multiplied.

    s = a^alpha / w^(1 - alpha), a and w the largest activation and weight of the channel; the alpha of least error

The form is SmoothQuant's (Xiao et al. 2022); at alpha 0.5 it gives activation and weights equal ranges, as cross-layer
equalization does (Nagel et al. 2019). The error of each alpha, and of leaving things alone, is predicted with rounding
as white noise: a tensor of range R has noise R^2 / (12 * 255^2) in eight bits. Weights have one scale per output
channel, so each row counts relative to its own largest weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array
from optimizer.repair.channel_statistics import ChannelStatistics

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)
_STEPS = 255
# A channel that is (nearly) never active, or never read, takes no part in the balance.
_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads the scaled activation.

    Attributes:
        matrix: its weights, see `layer_weights`.
        statistics: of the activation that it reads, by feature.
        features: how many of its inputs in a row belong to one channel (a flattened image has many).
    """

    matrix: Array
    statistics: ChannelStatistics
    features: int = 1


@dataclass(frozen=True, slots=True)
class Scales:
    """The factors by channel, and how much of the predicted error they leave."""

    factors: Array
    error_left: float


def best_scales(readers: Sequence[Reader]) -> Scales:
    """Take the alpha with the least predicted error over all readers; `error_left` is 1 where nothing is better."""
    activation, weight = _largest(readers)
    alone = _error(readers, np.ones(len(activation)))
    best = Scales(np.ones(len(activation)), 1.0)
    if not np.isfinite(alone) or alone <= 0:
        return best
    for alpha in ALPHAS:
        factors = activation**alpha / weight ** (1 - alpha)
        factors /= np.exp(np.log(factors).mean())
        left = _error(readers, factors) / alone
        if left < best.error_left:
            best = Scales(factors, left)
    return best


def _largest(readers: Sequence[Reader]) -> tuple[Array, Array]:
    """Largest activation and weight of each channel over all readers, nothing smaller than a share of the largest."""
    activations, weights = [], []
    for reader in readers:
        found = np.maximum(np.abs(reader.statistics.lowest), np.abs(reader.statistics.highest))
        activations.append(found.reshape(-1, reader.features).max(axis=1))
        rows = np.abs(_relative(reader.matrix)).max(axis=(1, 3)).reshape(-1)
        weights.append(rows.reshape(-1, reader.features).max(axis=1))
    activation, weight = np.max(activations, axis=0), np.max(weights, axis=0)
    return _at_least(activation), _at_least(weight)


def _error(readers: Sequence[Reader], factors: Array) -> float:
    """Predicted squared error of the readers' outputs, each as a share of its signal; NaN where squares overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(_error_of(reader, np.repeat(factors, reader.features)) for reader in readers)


def _error_of(reader: Reader, factors: Array) -> float:
    weights, found = _relative(reader.matrix), reader.statistics
    energy = np.square(weights).sum(axis=(1, 3)).reshape(-1)  # by input
    lowest, highest = np.minimum(found.lowest / factors, 0).min(), np.maximum(found.highest / factors, 0).max()
    activation_noise = ((highest - lowest) / _STEPS) ** 2 * float((energy * factors**2).sum())
    groups, _, inputs, positions = weights.shape
    by_group = factors.reshape(groups, 1, inputs, 1)
    steps = 2 * np.abs(weights * by_group).max(axis=(2, 3)) / _STEPS  # by group and output
    passed = (found.mean_square / factors**2).reshape(groups, inputs).sum(axis=1) * positions
    weight_noise = float((np.square(steps).sum(axis=1) * passed).sum())
    signal = float((energy * found.mean_square).sum())
    return (activation_noise + weight_noise) / (12 * signal) if signal > 0 else 0.0


def _relative(matrix: Array) -> Array:
    """Each output's weights as a share of its largest."""
    wide = matrix.astype(np.float64)
    largest = np.abs(wide).max(axis=(2, 3), keepdims=True)
    return wide / np.where(largest > 0, largest, 1)


def _at_least(array: Array) -> Array:
    floor = max(float(array.max()) * _SMALLEST_SHARE, float(np.finfo(np.float32).tiny))
    result: Array = np.maximum(array, floor)
    return result
