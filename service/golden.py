"""Replay the golden samples of a version on the engine that will serve it."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import CorruptVersion, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, Golden
from enginehouse.tensor import Tensors, TensorSpec


def check_golden(engine: Engine, version_directory: Path, golden: Golden, is_built_engine: bool) -> None:
    """Compare an engine's answers with the original model's, and with its own on the machine that built it.

    Args:
        engine: what will serve.
        version_directory: where `golden.npz` lies.
        golden: how near is near enough.
        is_built_engine: whether it is the engine whose own answers were recorded; a fallback is not.

    Raises:
        VerifyFailed: naming the first output that differs by more than the evidence allows, and by how much.
        CorruptVersion: the samples cannot be read.
    """
    arrays = _read(version_directory / GOLDEN_FILE)
    feeds = _part(arrays, "input")
    _check_complete(version_directory, "input", feeds, engine.inputs)
    for part in ("original", "built"):
        _check_complete(version_directory, part, _part(arrays, part), engine.outputs)
    outputs = engine.run(feeds)
    _compare(outputs, _part(arrays, "original"), golden.original_atol, golden.original_rtol, "the original model")
    if is_built_engine:
        _compare(outputs, _part(arrays, "built"), golden.built_atol, golden.built_rtol, "the engine that was built")


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error) as problem:
        raise CorruptVersion(f"{path} cannot be read: {problem}. Publish the version again.") from problem


def _part(arrays: Tensors, part: str) -> dict[str, Array]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check_complete(version_directory: Path, part: str, arrays: Tensors, specs: Sequence[TensorSpec]) -> None:
    """A sample that is not there would prove nothing."""
    for spec in specs:
        if spec.name not in arrays:
            path = version_directory / GOLDEN_FILE
            raise CorruptVersion(f"{path} holds no '{part}/{spec.name}'. Publish the version again.")


def _compare(outputs: Tensors, expected: Tensors, atol: float, rtol: float, whose: str) -> None:
    for name, want in expected.items():
        have = outputs.get(name)
        if have is None or have.shape != want.shape:
            found = "no such output" if have is None else f"shape {list(have.shape)}"
            raise VerifyFailed(f"golden output '{name}': {found} here, {whose} gave shape {list(want.shape)}.")
        if not np.issubdtype(want.dtype, np.number):
            if not np.array_equal(_as_text(have), _as_text(want)):
                raise VerifyFailed(f"golden output '{name}' differs from what {whose} gave.")
            continue
        difference = _difference(have.astype(np.float64), want.astype(np.float64))
        allowed = atol + rtol * np.abs(np.nan_to_num(want.astype(np.float64), posinf=0.0, neginf=0.0))
        if np.any(difference > allowed):
            raise VerifyFailed(
                f"golden output '{name}' differs from what {whose} gave by up to {np.max(difference):.3g}; "
                f"{atol:.3g} + {rtol:.3g} x |value| is allowed."
            )


def _difference(have: Array, want: Array) -> Array:
    """How far apart; infinities of one sign are equal, and so is NaN to NaN, but neither to anything else."""
    is_equal = (have == want) | (np.isnan(have) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        difference = np.abs(have - want)
    return np.where(is_equal, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _as_text(array: Array) -> Array:
    return np.array([item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()])
