from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.engine import Engine
from enginehouse.errors import VerifyFailed
from enginehouse.evidence import GoldenTolerance
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec
from optimizer.publish.golden import GoldenSamples

X = TensorSpec("x", DTYPES["FP32"], (-1, 2))
ROWS = {"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}


def engine(offset: float) -> Engine:
    y = TensorSpec("y", DTYPES["FP32"], (-1, 2))
    return FakeEngine([X], [y], lambda feeds: {"y": feeds["x"] + np.float32(offset)})


def added(
    offset: float | None = 0.0, precision: str = "fp32", measured: Mapping[str, float] | None = None
) -> GoldenTolerance:
    built = None if offset is None else engine(offset)
    return GoldenSamples(ROWS, engine(0)).add("model.onnx", built, {precision}, measured or {})


def arrays_in(folder: Path) -> dict[str, Array]:
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_samples_hold_inputs_and_the_answers_of_the_original_and_of_every_engine(tmp_path: Path) -> None:
    samples = GoldenSamples(ROWS, engine(0))
    samples.add("model.onnx", engine(0.5), {"int8"}, {})
    samples.add("model.openvino.onnx", engine(0.25), {"bf16"}, {})
    samples.add("model.sm89.plan", None, {"fp16"}, {})
    golden = samples.save(tmp_path, synthetic=False)
    arrays = arrays_in(tmp_path)
    assert set(arrays) == {"input/x", "original/y", "built/model.onnx/y", "built/model.openvino.onnx/y"}
    np.testing.assert_array_equal(arrays["input/x"], ROWS["x"])
    np.testing.assert_array_equal(arrays["original/y"], ROWS["x"])
    np.testing.assert_array_equal(arrays["built/model.onnx/y"], ROWS["x"] + 0.5)
    np.testing.assert_array_equal(arrays["built/model.openvino.onnx/y"], ROWS["x"] + 0.25)
    assert (golden.rows, golden.synthetic) == (2, False)


def test_the_original_tolerance_is_twice_what_was_measured_anywhere() -> None:
    assert added(0.5, measured={"y": 0.1}).original["y"].atol == pytest.approx(1.0)
    assert added(0.5, measured={"y": 2.0}).original["y"].atol == pytest.approx(4.0)


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 2e-2), ("int8", 2e-2)])
def test_the_built_tolerance_is_a_share_of_the_largest_output(precision: str, share: float) -> None:
    tolerance = added(precision=precision)
    assert tolerance.built["y"].atol == pytest.approx(4.0 * share)
    assert tolerance.original["y"].atol >= tolerance.built["y"].atol


def test_an_engine_that_cannot_run_here_is_held_to_the_original_only() -> None:
    tolerance = added(None, "fp16", {"y": 3.0})
    assert tolerance.built == {}
    assert tolerance.original["y"].atol == pytest.approx(6.0)


def test_each_output_is_judged_by_its_own_size() -> None:
    specs = [TensorSpec(name, DTYPES["FP32"], (-1,)) for name in ("large", "small")]
    values = {"large": np.array([1000.0], np.float32), "small": np.array([0.01], np.float32)}
    samples = GoldenSamples(ROWS, FakeEngine([X], specs, lambda _: values))
    near = samples.add("model.onnx", FakeEngine([X], specs, lambda _: values), {"fp32"}, {"large": 1.0}).original
    assert near["large"].atol == pytest.approx(2.0)
    assert near["small"].atol == pytest.approx(1e-6)


@pytest.mark.parametrize("offset", [np.nan, np.inf])
def test_what_is_not_finite_is_never_near(offset: float) -> None:
    with pytest.raises(VerifyFailed, match=r"model\.onnx gives .* for output 'y'"):
        added(offset)


def test_text_and_bf16_need_no_pickle(tmp_path: Path) -> None:
    text = TensorSpec("t", DTYPES["BYTES"], (-1,))
    echo = FakeEngine([text], [text], lambda _: {"t": np.array(["a", b"bc"], object)})
    samples = GoldenSamples({"t": np.array([b"a", "bc"], object)}, echo)
    samples.add("model.onnx", echo, {"fp32"}, {})
    samples.save(tmp_path, synthetic=False)
    assert arrays_in(tmp_path)["built/model.onnx/t"].tolist() == ["a", "bc"]
    half = {"x": ROWS["x"].astype(ml_dtypes.bfloat16)}
    original = FakeEngine([X], [X], lambda feeds: {"y": feeds["x"]})
    samples = GoldenSamples(half, original)
    samples.add("model.onnx", original, {"bf16"}, {})
    samples.save(tmp_path, synthetic=True)
    arrays = arrays_in(tmp_path)
    np.testing.assert_array_equal(arrays["input/x"].view(ml_dtypes.bfloat16), half["x"])
    np.testing.assert_array_equal(arrays["built/model.onnx/y"], ROWS["x"])
