"""Made-up rows where there are no real ones: they let INT8 be built, and prove nothing about real rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enginehouse.tensor import TensorSpec
from optimizer.data.dataset import DataSet
from optimizer.data.synthetic import synthetic_feeds

_ROWS = {"calibration": 128, "validation": 128, "test": 64}


def random_data(inputs: Sequence[TensorSpec], batch_axis_open: bool, seed: int, workdir: Path) -> DataSet:
    """Write seeded rows, other ones for each split, and open them as if they were the user's."""
    arrays = {}
    for position, (split, rows) in enumerate(_ROWS.items()):
        if batch_axis_open:
            feeds = synthetic_feeds(inputs, rows, True, seed + position)
        else:
            each = [synthetic_feeds(inputs, 1, False, seed + position * 10_000 + row) for row in range(rows)]
            feeds = {name: np.stack([feed[name] for feed in each]) for name in each[0]}
        for name, array in feeds.items():
            arrays[f"{split}/{name}"] = array.astype(np.str_) if array.dtype.hasobject else array
    path = workdir / "random.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return DataSet([path], inputs, batch_axis_open, seed)
