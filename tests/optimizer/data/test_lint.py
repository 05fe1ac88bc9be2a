import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.tensor import TensorSpec
from optimizer.data.dataset import DataSet
from optimizer.data.lint import lint
from optimizer.graph.graph import load_graph

EXAMPLES = Path(__file__).parents[3] / "examples"
IMAGE = TensorSpec("x", DTYPES["FP32"], (-1, 3, 16, 16))
TABLE = TensorSpec("x", DTYPES["FP32"], (-1, 24))


def images(rows: int, seed: int = 0) -> Array:
    """Smooth: a few waves of random direction, between 0 and 1."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:16, 0:16] / 16
    across, down, phase = random.uniform(-6, 6, (3, rows, 3, 1, 1))
    return np.asarray(0.5 + 0.5 * np.sin(across * x + down * y + phase), np.float32)


def opened(folder: Path, arrays: dict[str, Array], spec: TensorSpec = IMAGE) -> DataSet:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return DataSet([folder / "data.npz"], [spec], spec.shape[0] == -1, 0)


def warned(folder: Path, arrays: dict[str, Array], spec: TensorSpec = IMAGE, classes: int | None = None) -> list[str]:
    return list(lint(opened(folder, arrays, spec), "calibration", classes))


def sound() -> dict[str, Array]:
    return {f"{split}/x": images(64, seed) for seed, split in enumerate(("calibration", "validation", "test"))}


def test_sound_rows_are_not_warned_of(tmp_path: Path) -> None:
    labels = {f"{split}/label": np.arange(64) % 4 for split in ("calibration", "validation", "test")}
    assert warned(tmp_path, {**sound(), **labels}, classes=4) == []


def test_real_handwriting_is_not_warned_of() -> None:
    graph = load_graph(EXAMPLES / "digits" / "digits.onnx")
    data = DataSet([EXAMPLES / "digits" / "digits.npz"], graph.inputs, graph.batch_axis_open, 0)
    assert data.rows["calibration"] > 100
    assert lint(data, "calibration", classes=10) == ()


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("spec", [IMAGE, TABLE], ids=["images", "tables"])
def test_noise_is_told_from_signals(tmp_path: Path, kind: str, spec: TensorSpec) -> None:
    random = np.random.default_rng(0)
    draw = random.random if kind == "uniform" else random.standard_normal
    arrays = {f"{split}/x": draw((64, *spec.shape[1:])).astype(np.float32) for split in ("calibration", "validation")}
    (warning,) = warned(tmp_path, arrays, spec)
    assert warning.startswith("input 'x' of the calibration split looks like random noise")


def test_pixels_that_have_nothing_to_do_with_their_neighbours_are_noise_however_spread(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).exponential(size=(64, 3, 16, 16)).astype(np.float32)
    (warning,) = warned(tmp_path, {"calibration/x": pixels})
    assert "random noise" in warning


def test_noise_in_bytes_is_noise_too(tmp_path: Path) -> None:
    spec = TensorSpec("x", DTYPES["UINT8"], (-1, 16, 16, 3))
    noise = np.random.default_rng(0).integers(0, 256, (128, 16, 16, 3), np.uint8)
    assert any("random noise" in one for one in warned(tmp_path, {"calibration/x": noise[:64], "test/x": noise}, spec))


def test_images_with_their_channels_last_are_compared_along_the_picture(tmp_path: Path) -> None:
    spec = TensorSpec("x", DTYPES["FP32"], (-1, 16, 16, 3))
    arrays = {name: array.transpose(0, 2, 3, 1) for name, array in sound().items()}
    assert warned(tmp_path, {name: np.ascontiguousarray(array) for name, array in arrays.items()}, spec) == []


def test_columns_of_a_table_need_not_go_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {f"{split}/x": random.lognormal(size=(64, 24)).astype(np.float32) for split in ("calibration", "test")}
    assert warned(tmp_path, arrays, TABLE) == []


def test_rows_that_are_all_the_same_are_named(tmp_path: Path) -> None:
    warnings = warned(tmp_path, {**sound(), "calibration/x": np.repeat(images(1), 64, axis=0)})
    assert "input 'x' is the same in every row of the calibration split." in warnings
    assert "63 rows are in the calibration split for a second time, of 64." in warnings


def test_rows_of_one_value_are_counted(tmp_path: Path) -> None:
    arrays = sound()
    arrays["calibration/x"][5], arrays["calibration/x"][9] = 0.0, 1.0
    assert warned(tmp_path, arrays) == ["2 rows are of one value only in input 'x' of the calibration split."]


def test_rows_in_two_splits_are_counted(tmp_path: Path) -> None:
    arrays = sound()
    arrays["calibration/x"][:7] = arrays["validation/x"][10:17]
    arrays["test/x"][0] = arrays["validation/x"][0]
    assert warned(tmp_path, arrays) == [
        "7 rows are in the calibration split and in the validation split too; what is judged was seen.",
        "1 row is in the validation split and in the test split too; what is judged was seen.",
    ]


@pytest.mark.parametrize(
    ("scale", "shift", "words"),
    [
        (255.0, 0.0, "times as wide in the calibration split"),
        (1.0, 3.0, "3.5 on average in the calibration split and 0.49"),
    ],
)
def test_splits_that_are_scaled_apart_are_found(tmp_path: Path, scale: float, shift: float, words: str) -> None:
    arrays = sound()
    arrays["calibration/x"] = arrays["calibration/x"] * scale + shift
    (warning,) = warned(tmp_path, arrays)
    assert words in warning


def test_classes_that_are_missing_are_listed(tmp_path: Path) -> None:
    labels = {"calibration/label": np.arange(64) % 3, "validation/label": 1 + np.arange(64) % 8}
    assert warned(tmp_path, {**sound(), **labels, "test/label": np.zeros(64)}, classes=10) == [
        "the calibration split has no row of classes 3, 4, 5, 6, 7, …, which validation has.",
        "validation has no row of class 0, which the calibration split has.",
        "validation has rows of 8 classes, and the model tells 10 apart.",
    ]


def test_few_rows_are_said_to_be_few(tmp_path: Path) -> None:
    assert warned(tmp_path, {**sound(), "calibration/x": images(31, 7)}) == [
        "the calibration split has 31 rows; ranges from fewer than 32 seldom hold."
    ]


def test_rows_of_a_model_without_an_axis_of_rows_are_looked_at_too(tmp_path: Path) -> None:
    spec = TensorSpec("x", DTYPES["FP32"], (16, 16))
    noise = np.random.default_rng(0).standard_normal((64, 16, 16)).astype(np.float32)
    assert any("random noise" in one for one in warned(tmp_path, {"calibration/x": noise, "test/x": noise + 1}, spec))


def test_text_is_only_looked_at_for_repetition(tmp_path: Path) -> None:
    spec = TensorSpec("x", DTYPES["BYTES"], (-1, 1))
    text = np.array([[f"row {number}"] for number in range(64)])
    assert warned(tmp_path, {"calibration/x": text, "validation/x": text[:3]}, spec) == [
        "3 rows are in the calibration split and in the validation split too; what is judged was seen."
    ]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (4_000, 12_000):
        data = opened(tmp_path, {"calibration/x": images(rows), "validation/x": images(200, 1)})
        tracemalloc.start()
        lint(data, "calibration", None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2_000_000, "8,000 rows take 24 MB; their hashes one"
