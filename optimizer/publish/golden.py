"""Golden samples: rows with the answers of the original and of each built engine, replayed before a version is ready.

`golden.npz` is one feed and its answers: `input/<name>`, `original/<output>`, `built/<engine file>/<output>`. Text is
stored in fixed width.

Tolerances, for each engine and each output `atol + rtol x |expected|`:

    original   twice the largest difference that was measured on the validation and golden rows, and at least what the
               built engine is allowed
    built      what another processor may round differently: 1e-4 of the output's largest value; more where an engine
               computes in less than FP32, because there a rounding can move a value to the next of few steps, layer
               after layer
"""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, Closeness, Golden, GoldenTolerance
from enginehouse.tensor import Tensors
from optimizer.evaluate.distance import absolute_difference, largest_value
from optimizer.evaluate.kept_outputs import storable

GOLDEN_ROWS = 16
_RTOL = 1e-4
_LEAST_ATOL = 1e-6
_BUILT_SHARE = {
    "fp32": 1e-4, "fp64": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 2e-2, "int8_dynamic": 2e-2, "int4": 2e-2,
}  # fmt: skip


class GoldenSamples:
    """The samples with the original's answers, to which engine after engine adds its own.

    Args:
        feeds: the samples, one feed.
        original: the source model.
    """

    def __init__(self, feeds: Tensors, original: Engine) -> None:
        self._feeds = feeds
        self._expected = original.run(feeds)
        self._built: dict[str, Tensors] = {}

    def add(
        self, file: str, engine: Engine | None, precisions: set[str], measured: Mapping[str, float]
    ) -> GoldenTolerance:
        """Let an engine answer the samples, and state how near is near enough from now on.

        Args:
            file: its name in the version.
            engine: None for one that cannot run here, which is held to the original only.
            precisions: what it computes in.
            measured: the largest difference from the original that the validation rows showed, by output.

        Raises:
            VerifyFailed: it gives an infinite or undefined number where the original does not.
        """
        share = max(_BUILT_SHARE[precision] for precision in precisions)
        near = {name: max(_LEAST_ATOL, share * largest_value(array)) for name, array in self._expected.items()}
        largest = {name: measured.get(name, 0.0) for name in near}
        if engine is not None:
            self._built[file] = engine.run(self._feeds)
            for name, expected in self._expected.items():
                difference = absolute_difference(expected, self._built[file][name])
                largest[name] = max(largest[name], float(difference.max(initial=0.0)))
        _refuse_infinite(file, largest)
        original = {name: _closeness(max(2 * largest[name], near[name])) for name in near}
        return GoldenTolerance(
            original=original,
            built={} if engine is None else {name: _closeness(atol) for name, atol in near.items()},
        )

    def save(self, folder: Path, synthetic: bool) -> Golden:
        """Write `golden.npz`; `synthetic` says that the samples are seeded rows, not the user's."""
        arrays = {
            **{f"input/{name}": storable(array) for name, array in self._feeds.items()},
            **{f"original/{name}": _comparable(array) for name, array in self._expected.items()},
            **{
                f"built/{file}/{name}": _comparable(array)
                for file, outputs in self._built.items()
                for name, array in outputs.items()
            },
        }
        np.savez_compressed(folder / GOLDEN_FILE, **arrays)  # type: ignore[arg-type]
        return Golden(rows=_rows(self._feeds), synthetic=synthetic)


def _closeness(atol: float) -> Closeness:
    return Closeness(atol=atol, rtol=_RTOL)


def _refuse_infinite(file: str, largest: Mapping[str, float]) -> None:
    for name, difference in largest.items():
        if not np.isfinite(difference):
            raise VerifyFailed(
                f"{file} gives another shape than the original for output '{name}', or numbers that are not finite "
                "where the original's are, on the golden samples. Build without its precision."
            )


def _comparable(array: Array) -> Array:
    """Outputs are only compared, so BF16 may become FP32, which holds all of its values."""
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else storable(array)


def _rows(feeds: Tensors) -> int:
    first = next(iter(feeds.values()), None)
    return len(first) if first is not None and first.ndim else 1
