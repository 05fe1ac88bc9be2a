"""Golden samples: an engine that gives other answers than were recorded does not serve."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import CorruptVersion, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, EngineRecord, GoldenTolerance
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec
from service.loading.golden import check_golden
from tests.enginehouse.conftest import make_record, near

BUILT = "built/model.onnx/y"


def record(is_built_engine: bool = True) -> EngineRecord:
    """An engine that was run where it was built, or one that could not be."""
    built = near(0.01, 0.1) if is_built_engine else {}
    return make_record(tolerance=GoldenTolerance(original=near(0.1), built=built))


def check(
    directory: Path,
    output: Array,
    original: Array | None = None,
    built: Array | None = None,
    is_built_engine: bool = True,
    dtype: str = "FP32",
    given: Array | None = None,
) -> FakeEngine:
    spec = TensorSpec("x", DTYPES[dtype], (-1,))
    answer = TensorSpec("y", DTYPES[dtype], (-1,))
    engine = FakeEngine([spec], [answer], lambda _: {"y": output})
    expected = output if original is None else original
    arrays: dict[str, Any] = {
        "input/x": np.zeros(2, np.float32) if given is None else given,
        "original/y": expected,
        BUILT: expected if built is None else built,
    }
    np.savez(directory / GOLDEN_FILE, **arrays)
    check_golden(engine, directory, record(is_built_engine))
    return engine


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def test_equal_answers_pass_and_the_samples_are_what_was_asked(tmp_path: Path) -> None:
    engine = check(tmp_path, floats(1, 2), given=floats(7, 8))
    assert engine.runs[0]["x"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("output", "original", "built", "is_built", "whose"),
    [
        (floats(1.05, 2), floats(1, 2), floats(1.05, 2), True, None),
        (floats(1.2, 2), floats(1, 2), floats(1.2, 2), True, "the original model"),
        (floats(1.05, 2), floats(1, 2), floats(1.3, 2), True, "this engine where it was built"),
        (floats(1.05, 2), floats(1, 2), floats(1.3, 2), False, None),
        (floats(1.05, 2), floats(1, 2), floats(1.15, 2), True, None),
        (floats(np.nan, 2), floats(1, 2), None, True, "the original model"),
        (floats(1, 2), floats(np.nan, 2), None, True, "the original model"),
        (floats(np.inf, 2), floats(1, 2), None, True, "the original model"),
        (floats(np.inf, 2), floats(-np.inf, 2), None, True, "the original model"),
        (floats(1, 2), floats(np.inf, 2), None, True, "the original model"),
        (floats(np.nan, np.inf), floats(np.nan, np.inf), None, True, None),
        (floats(1, 2, 3), floats(1, 2), None, True, r"shape \[3\] here, the original model gave shape \[2\]"),
    ],
)
def test_each_bound_is_its_own(
    tmp_path: Path, output: Array, original: Array, built: Array | None, is_built: bool, whose: str | None
) -> None:
    if whose is None:
        check(tmp_path, output, original, built, is_built)
        return
    with pytest.raises(VerifyFailed, match=whose):
        check(tmp_path, output, original, built, is_built)


def test_the_message_says_by_how_much(tmp_path: Path) -> None:
    with pytest.raises(
        VerifyFailed, match=r"golden output 'y' differs .* by up to 3; 0\.1 \+ 0 x \|value\| is allowed"
    ):
        check(tmp_path, floats(1, 5), floats(1, 2))


@pytest.mark.parametrize(("dtype", "is_same"), [("BYTES", True), ("BYTES", False), ("BOOL", True), ("BOOL", False)])
def test_text_and_truth_must_be_equal(tmp_path: Path, dtype: str, is_same: bool) -> None:
    output = np.array(["ä", b"b"], dtype=object) if dtype == "BYTES" else np.array([True, False])
    recorded = np.array(["ä", "b"]) if dtype == "BYTES" else output
    if is_same:
        check(tmp_path, output, recorded, dtype=dtype)
        return
    with pytest.raises(VerifyFailed, match="differs from what the original model gave"):
        check(tmp_path, output, recorded[::-1], dtype=dtype)


def test_bf16_and_scalars_are_compared_as_numbers(tmp_path: Path) -> None:
    check(tmp_path, floats(1, 2).astype(ml_dtypes.bfloat16), floats(1, 2), dtype="BF16")
    check(tmp_path, np.array(3, np.float32))
    with pytest.raises(VerifyFailed):
        check(tmp_path, np.array(3, np.float32), np.array(4, np.float32))


@pytest.mark.parametrize("missing", ["input/x", "original/y", BUILT])
def test_samples_that_would_prove_nothing_are_refused(tmp_path: Path, missing: str) -> None:
    engine = check(tmp_path, floats(1, 2))
    with np.load(tmp_path / GOLDEN_FILE) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files if name != missing}
    np.savez(tmp_path / GOLDEN_FILE, **arrays)
    with pytest.raises(CorruptVersion, match=f"holds no '{missing}'"):
        check_golden(engine, tmp_path, record())


def test_each_engine_is_held_to_its_own_samples(tmp_path: Path) -> None:
    engine = check(tmp_path, floats(1, 2))
    with np.load(tmp_path / GOLDEN_FILE) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    np.savez(tmp_path / GOLDEN_FILE, **arrays, **{"built/other.onnx/y": floats(1, 2.5)})  # type: ignore[arg-type]
    check_golden(engine, tmp_path, record())
    with pytest.raises(VerifyFailed, match="this engine where it was built"):
        check_golden(engine, tmp_path, record().model_copy(update={"file": "other.onnx"}))


def test_each_output_has_a_tolerance_of_its_own_or_is_not_proven(tmp_path: Path) -> None:
    specs = [TensorSpec(name, DTYPES["FP32"], (-1,)) for name in ("x", "y", "z")]
    engine = FakeEngine(specs[:1], specs[1:], lambda _: {"y": floats(1), "z": floats(100.5)})
    np.savez(tmp_path / GOLDEN_FILE, **{"input/x": floats(0), "original/y": floats(1), "original/z": floats(100)})  # type: ignore[arg-type]

    def allow(**atol: float) -> EngineRecord:
        bounds = {name: near(value)["y"] for name, value in atol.items()}
        return make_record(tolerance=GoldenTolerance(original=bounds))

    check_golden(engine, tmp_path, allow(y=0.1, z=1))
    with pytest.raises(VerifyFailed, match="golden output 'z'"):
        check_golden(engine, tmp_path, allow(y=1, z=0.1))
    with pytest.raises(CorruptVersion, match="does not say how near 'original/z' must be"):
        check_golden(engine, tmp_path, allow(y=1))
    with pytest.raises(CorruptVersion, match="holds no 'original/w'"):
        check_golden(engine, tmp_path, allow(y=1, z=1, w=1))


def test_samples_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    engine = check(tmp_path, floats(1, 2))
    path = tmp_path / GOLDEN_FILE
    whole = path.read_bytes()
    np.savez(path, **{"input/x": np.array([None], dtype=object)})  # type: ignore[arg-type]
    needs_pickle = path.read_bytes()
    np.save(path.with_suffix(".npy"), floats(1))
    for content in (b"", b"text", whole[: len(whole) // 2], needs_pickle, path.with_suffix(".npy").read_bytes(), None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CorruptVersion, match=r"golden\.npz cannot be read"):
            check_golden(engine, tmp_path, record())
        path.touch()
