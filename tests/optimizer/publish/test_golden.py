from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.engine import Engine
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec
from optimizer.publish.golden import write_golden

X = TensorSpec("x", DTYPES["FP32"], (-1, 2))
ROWS = {"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}


def engine(offset: float, dtype: str = "FP32") -> Engine:
    y = TensorSpec("y", DTYPES[dtype], (-1, 2))
    return FakeEngine([X], [y], lambda feeds: {"y": (feeds["x"] + np.float32(offset)).astype(DTYPES[dtype].numpy)})


def arrays_in(folder: Path) -> dict[str, Array]:
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_samples_hold_inputs_and_both_answers(tmp_path: Path) -> None:
    golden = write_golden(tmp_path, ROWS, engine(0), engine(0.5), "fp32", measured=0.0, synthetic=False)
    arrays = arrays_in(tmp_path)
    np.testing.assert_array_equal(arrays["input/x"], ROWS["x"])
    np.testing.assert_array_equal(arrays["original/y"], ROWS["x"])
    np.testing.assert_array_equal(arrays["built/y"], ROWS["x"] + 0.5)
    assert (golden.rows, golden.synthetic) == (2, False)


def test_the_original_tolerance_is_twice_what_was_measured_anywhere(tmp_path: Path) -> None:
    on_rows = write_golden(tmp_path, ROWS, engine(0), engine(0.5), "fp32", measured=0.1, synthetic=True)
    assert on_rows.original_atol == pytest.approx(1.0)
    elsewhere = write_golden(tmp_path, ROWS, engine(0), engine(0.5), "fp32", measured=2.0, synthetic=True)
    assert elsewhere.original_atol == pytest.approx(4.0)


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-4), ("int8", 2e-2)])
def test_the_built_tolerance_is_a_share_of_the_largest_output(tmp_path: Path, precision: str, share: float) -> None:
    golden = write_golden(tmp_path, ROWS, engine(0), engine(0), precision, measured=0.0, synthetic=False)
    assert golden.built_atol == pytest.approx(4.0 * share)
    assert golden.original_atol >= golden.built_atol


def test_text_and_bf16_need_no_pickle(tmp_path: Path) -> None:
    text = TensorSpec("t", DTYPES["BYTES"], (-1,))
    echo = FakeEngine([text], [text], lambda _: {"t": np.array(["a", b"bc"], object)})
    write_golden(tmp_path, {"t": np.array([b"a", "bc"], object)}, echo, echo, "fp32", 0.0, synthetic=False)
    assert arrays_in(tmp_path)["built/t"].tolist() == ["a", "bc"]
    half = {"x": ROWS["x"].astype(ml_dtypes.bfloat16)}
    original = FakeEngine([X], [X], lambda feeds: {"y": feeds["x"]})
    write_golden(tmp_path, half, original, original, "bf16", 0.0, synthetic=False)
    arrays = arrays_in(tmp_path)
    np.testing.assert_array_equal(arrays["input/x"].view(ml_dtypes.bfloat16), half["x"])
    np.testing.assert_array_equal(arrays["built/y"], ROWS["x"])
