"""Replay the golden samples of a version on the engine that will serve it."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import CorruptVersion, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, Closeness, EngineRecord
from enginehouse.tensor import Tensors, TensorSpec


def check_golden(engine: Engine, version_directory: Path, record: EngineRecord) -> None:
    """Compare an engine's answers with the original model's, and with its own on the machine that built it.

    Args:
        engine: what will serve.
        version_directory: where `golden.npz` lies.
        record: of the engine: its file, and how near is near enough, output by output. Where it could not be run on
            the machine that built it, it is compared with the original only.

    Raises:
        VerifyFailed: naming the first output that differs by more than the evidence allows, and by how much.
        CorruptVersion: the samples cannot be read, or are not those of this engine.
    """
    path = version_directory / GOLDEN_FILE
    arrays = _read(path)
    feeds = _part(arrays, "input")
    _check_complete(path, "input", feeds, (spec.name for spec in engine.inputs))
    comparisons = [("original", record.tolerance.original, "the original model")]
    if record.tolerance.built:
        comparisons.append((f"built/{record.file}", record.tolerance.built, "this engine where it was built"))
    for part, tolerance, _ in comparisons:
        _check_tolerance(path, part, tolerance, engine.outputs)
        _check_complete(path, part, _part(arrays, part), tolerance)
    outputs = engine.run(feeds)
    for part, tolerance, whose in comparisons:
        _compare(outputs, _part(arrays, part), tolerance, whose)


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as problem:
        raise CorruptVersion(f"{path} cannot be read: {problem}. Publish the version again.") from problem


def _part(arrays: Tensors, part: str) -> dict[str, Array]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check_complete(path: Path, part: str, arrays: Tensors, names: Iterable[str]) -> None:
    """A sample that is not there would prove nothing."""
    for name in names:
        if name not in arrays:
            raise CorruptVersion(f"{path} holds no '{part}/{name}'. Publish the version again.")


def _check_tolerance(path: Path, part: str, tolerance: Mapping[str, Closeness], specs: Sequence[TensorSpec]) -> None:
    """Nor would one that may differ by anything."""
    for spec in specs:
        if spec.name not in tolerance:
            raise CorruptVersion(
                f"the evidence beside {path} does not say how near '{part}/{spec.name}' must be. "
                "Publish the version again."
            )


def _compare(outputs: Tensors, expected: Tensors, tolerance: Mapping[str, Closeness], whose: str) -> None:
    for name, near in tolerance.items():
        want, have = expected[name], outputs.get(name)
        if have is None or have.shape != want.shape:
            found = "no such output" if have is None else f"shape {list(have.shape)}"
            raise VerifyFailed(f"golden output '{name}': {found} here, {whose} gave shape {list(want.shape)}.")
        if not np.issubdtype(want.dtype, np.number):
            if not np.array_equal(_as_text(have), _as_text(want)):
                raise VerifyFailed(f"golden output '{name}' differs from what {whose} gave.")
            continue
        difference = _difference(have.astype(np.float64), want.astype(np.float64))
        allowed = near.atol + near.rtol * np.abs(np.nan_to_num(want.astype(np.float64), posinf=0.0, neginf=0.0))
        if np.any(difference > allowed):
            raise VerifyFailed(
                f"golden output '{name}' differs from what {whose} gave by up to {np.max(difference):.3g}; "
                f"{near.atol:.3g} + {near.rtol:.3g} x |value| is allowed."
            )


def _difference(have: Array, want: Array) -> Array:
    """How far apart; infinities of one sign are equal, and so is NaN to NaN, but neither to anything else."""
    is_equal = (have == want) | (np.isnan(have) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        difference = np.abs(have - want)
    return np.where(is_equal, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _as_text(array: Array) -> Array:
    return np.array([item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()])
