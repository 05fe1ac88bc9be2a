"""Made-up rows for the models with random weights: not noise, because noise looks the same in every network.

Nothing that is measured on them says how real rows fare; they are there so that a build has something to calibrate and
to judge on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import Array

ROWS = {"calibration": 64, "validation": 48, "test": 48}
_COARSE = 7


def smooth_images(rows: int, side: int, seed: int) -> Array:
    """FP32 [rows, 3, side, side]: a coarse pattern drawn large, its channels alike, and a little grain."""
    random = np.random.default_rng(seed)
    pattern = random.standard_normal((rows, 1, _COARSE, _COARSE)) + 0.5 * random.standard_normal((rows, 3, _COARSE, 1))
    places = np.linspace(0, _COARSE - 1, side)
    left = np.minimum(places.astype(int), _COARSE - 2)
    share = places - left
    wide = pattern[..., left] * (1 - share) + pattern[..., left + 1] * share
    high = wide[..., left, :] * (1 - share)[:, None] + wide[..., left + 1, :] * share[:, None]
    grain = random.standard_normal((rows, 3, side, side))
    return np.asarray(high + 0.05 * grain, np.float32)


def token_rows(rows: int, length: int, vocabulary: int, seed: int) -> Array:
    """INT64 [rows, length]: a few tokens are frequent and most are rare, as words are (Zipf's law)."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, vocabulary + 1)
    return random.choice(vocabulary, size=(rows, length), p=share / share.sum()).astype(np.int64)


def write_splits(path: Path, name: str, draw: Callable[[int, int], Array]) -> None:
    """Write an `.npz` of three splits without labels; `draw` is given the rows and a seed of the split's own."""
    arrays: dict[str, Any] = {f"{split}/{name}": draw(rows, seed) for seed, (split, rows) in enumerate(ROWS.items())}
    np.savez(path, **arrays)
