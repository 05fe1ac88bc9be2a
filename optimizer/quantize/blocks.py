"""Four-bit integers for a matrix, block after block of one column: round to nearest at the scale that errs least."""

from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import Array

# Shares of the full range that are tried: a narrower one clips the outliers of a block and rounds the rest finer.
_SHARES = np.linspace(1.0, 0.7, 13)
_HIGHEST, _LOWEST_SIGNED, _HIGHEST_SIGNED = 15, -8, 7


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [inputs, outputs] as integers: real = scale * (integer - zero).

    Attributes:
        integers: [outputs, blocks, block size], 0 to 15, or -8 to 7 where signed; rows that were added are zero points.
        scales: [outputs, blocks], FP32.
        zeros: [outputs, blocks]; all 0 where signed.
    """

    integers: Array
    scales: Array
    zeros: Array

    def matrix(self, inputs: int) -> Array:
        """The matrix that the integers stand for."""
        blocks = (self.integers - self.zeros[..., None]) * self.scales[..., None]
        return blocks.reshape(len(blocks), -1)[:, :inputs].T.astype(np.float32)


def four_bit_blocks(weight: Array, block_size: int, is_signed: bool) -> Blocks:
    """Quantize a matrix; signed blocks are symmetric, the others have a zero point each."""
    inputs, outputs = weight.shape
    count = -(-inputs // block_size)
    padded = np.zeros((outputs, count * block_size), np.float32)
    padded[:, :inputs] = weight.T
    blocks = padded.reshape(outputs, count, block_size)
    best = _rounded(blocks, 1.0, is_signed)
    least = _errors(blocks, best)
    for share in _SHARES[1:]:
        found = _rounded(blocks, share, is_signed)
        errors = _errors(blocks, found)
        better = errors < least
        least = np.where(better, errors, least)
        best = Blocks(
            np.where(better[..., None], found.integers, best.integers),
            np.where(better, found.scales, best.scales),
            np.where(better, found.zeros, best.zeros),
        )
    return best


def packed(integers: Array) -> Array:
    """Two integers to a byte along the last axis, the first in the low half; an odd one out is followed by 0."""
    if integers.shape[-1] % 2:
        integers = np.concatenate((integers, np.zeros((*integers.shape[:-1], 1), integers.dtype)), axis=-1)
    halves = integers.astype(np.uint8) & 0xF
    pairs: Array = halves[..., ::2] | (halves[..., 1::2] << 4)
    return pairs


def _rounded(blocks: Array, share: float, is_signed: bool) -> Blocks:
    low, high = np.minimum(blocks.min(axis=2), 0) * share, np.maximum(blocks.max(axis=2), 0) * share
    if is_signed:
        # The lowest integer is one further from zero than the highest.
        scales = np.maximum(high / _HIGHEST_SIGNED, low / _LOWEST_SIGNED)
        lowest, highest = _LOWEST_SIGNED, _HIGHEST_SIGNED
    else:
        scales = (high - low) / _HIGHEST
        lowest, highest = 0, _HIGHEST
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    zeros = np.zeros(scales.shape, np.int8) if is_signed else np.rint(-low / scales).clip(0, _HIGHEST).astype(np.int8)
    integers = np.rint(blocks / scales[..., None]) + zeros[..., None]
    return Blocks(integers.clip(lowest, highest).astype(np.int8), scales, zeros)


def _errors(blocks: Array, found: Blocks) -> Array:
    back = (found.integers - found.zeros[..., None]) * found.scales[..., None]
    errors: Array = ((back - blocks) ** 2).sum(axis=2)
    return errors
