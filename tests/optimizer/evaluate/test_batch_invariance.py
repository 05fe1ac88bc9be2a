import numpy as np

from enginehouse.dtype import DTYPES
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.evaluate.batch_invariance import check_batch_invariance

X = TensorSpec("x", DTYPES["FP32"], (-1, 3))
ROWS = {"x": np.array([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]], np.float32)}


def engine(company: float) -> FakeEngine:
    """Add something to the first score of each row for each other row in the batch."""

    def run(feeds: Tensors) -> Tensors:
        y = feeds["x"].copy()
        y[:, 0] += company * (len(y) - 1)
        return {"y": y}

    return FakeEngine([X], [TensorSpec("y", DTYPES["FP32"], (-1, 3))], run)


def test_rows_that_do_not_see_each_other_are_invariant() -> None:
    assert check_batch_invariance(engine(0), ROWS, "fp32").holds


def test_rounding_is_allowed_and_more_is_not() -> None:
    small = check_batch_invariance(engine(1e-4), ROWS, "fp32")
    assert small.holds
    assert 0 < small.difference < 2e-4
    large = check_batch_invariance(engine(1e-2), ROWS, "fp32")
    assert not large.holds


def test_int8_may_move_by_a_step() -> None:
    assert check_batch_invariance(engine(0.1), ROWS, "int8").holds
    assert not check_batch_invariance(engine(0.2), ROWS, "int8").holds


def test_the_class_of_a_row_must_not_change_within_the_rounding_of_int8() -> None:
    near = {"x": np.array([[2.95, 3.0, 0.0], [6.0, 0.0, 0.0]], np.float32)}
    assert not check_batch_invariance(engine(0.1), near, "int8").holds


def test_dynamic_int8_has_no_allowance_because_company_changes_its_scale() -> None:
    assert not check_batch_invariance(engine(0.1), ROWS, "int8_dynamic").holds


def test_a_tie_is_what_the_type_cannot_tell_apart() -> None:
    near = {"x": np.array([[2.99, 3.0, 0.0], [6.0, 0.0, 0.0]], np.float32)}
    assert check_batch_invariance(engine(0.02), near, "bf16").holds
    assert not check_batch_invariance(engine(0.02), near, "fp16").holds
    assert not check_batch_invariance(engine(0.02), near, "int8").holds
