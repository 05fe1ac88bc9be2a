"""Golden samples: rows with the answers of the original and of the built engine, replayed before a version is ready.

`golden.npz` is one feed: `input/<name>`, `original/<output>`, `built/<output>`. Text is stored in fixed width.

Tolerances, each `atol + rtol x |expected|`:

    original   twice the largest difference that was measured on the validation and golden rows, and at least what the
               built engine is allowed
    built      what another processor may round differently: 1e-4 of the largest output; in INT8 2 % of it, because
               there a rounding can move a value to the next of 256 steps, layer after layer
"""

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.evidence import GOLDEN_FILE, Golden
from enginehouse.tensor import Tensors
from optimizer.evaluate.distance import OutputDistance

GOLDEN_ROWS = 16
_RTOL = 1e-4
_BUILT_SHARE = {"int8": 2e-2}
_BUILT_SHARE_FLOAT = 1e-4
_LEAST_ATOL = 1e-6


def write_golden(
    folder: Path, feeds: Tensors, original: Engine, built: Engine, precision: str, measured: float, synthetic: bool
) -> Golden:
    """Run both engines on the samples, write `golden.npz` and state how near is near enough.

    Args:
        folder: where the file goes.
        feeds: the samples, one feed.
        original: the source model.
        built: the engine that was chosen.
        precision: of the chosen engine.
        measured: the largest difference between the two that the validation rows showed.
        synthetic: whether the samples are seeded rows, not the user's.
    """
    expected, found = original.run(feeds), built.run(feeds)
    distance = OutputDistance()
    distance.update(expected, found)
    share = _BUILT_SHARE.get(precision, _BUILT_SHARE_FLOAT)
    built_atol = max(_LEAST_ATOL, share * distance.scale)
    arrays = {
        **{f"input/{name}": _storable(array) for name, array in feeds.items()},
        **{f"original/{name}": _comparable(array) for name, array in expected.items()},
        **{f"built/{name}": _comparable(array) for name, array in found.items()},
    }
    np.savez_compressed(folder / GOLDEN_FILE, **arrays)  # type: ignore[arg-type]
    return Golden(
        rows=_rows(list(feeds.values())),
        synthetic=synthetic,
        original_atol=max(2 * max(measured, distance.largest), built_atol),
        original_rtol=_RTOL,
        built_atol=built_atol,
        built_rtol=_RTOL,
    )


def _storable(array: Array) -> Array:
    """Nothing that needs pickle: text becomes fixed-width, and BF16, which the format does not know, its raw bytes."""
    if array.dtype.hasobject:
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
        return np.array(text, dtype=np.str_).reshape(array.shape)
    return array.view("V2") if array.dtype == ml_dtypes.bfloat16 else array


def _comparable(array: Array) -> Array:
    """Outputs are only compared, so BF16 may become FP32, which holds all of its values."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else _storable(array)


def _rows(arrays: Sequence[Array]) -> int:
    return len(arrays[0]) if arrays and arrays[0].ndim else 1
