import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.data.feeds import OPEN_LAYOUT, RowLayout, batches_from_chunks, fit_array, layout_from_shapes

X = TensorSpec("x", DTYPES["FP32"], (-1, 3))
FIXED = TensorSpec("x", DTYPES["FP32"], (2, 3))


def chunks_of(*lengths: int) -> list[tuple[dict[str, Array], Array | None]]:
    rows = np.arange(sum(lengths))
    pieces = np.split(rows, np.cumsum(lengths)[:-1])
    return [({"x": np.repeat(piece[:, None], 3, axis=1)}, piece) for piece in pieces]


def test_open_batch_axis_takes_rows_of_the_inner_shape() -> None:
    assert layout_from_shapes({"x": (10, 3)}, [X], batch_axis_open=True) == OPEN_LAYOUT


def test_fixed_leading_dimension_sets_the_rows_per_feed() -> None:
    assert layout_from_shapes({"x": (10, 3)}, [FIXED], batch_axis_open=False) == RowLayout(2, is_whole=False)


def test_a_row_may_be_a_whole_input() -> None:
    assert layout_from_shapes({"x": (10, 2, 3)}, [FIXED], batch_axis_open=False) == RowLayout(1, is_whole=True)


def test_rows_that_do_not_fit_are_refused_with_both_shapes() -> None:
    with pytest.raises(InvalidInput, match=r"'x' has rows of shape \[4\]; the model takes \[-1, 3\]"):
        layout_from_shapes({"x": (10, 4)}, [X], batch_axis_open=True)


def test_batches_join_and_cut_chunks_without_losing_a_row() -> None:
    batches = list(batches_from_chunks(chunks_of(3, 1, 5), OPEN_LAYOUT, 4))
    assert [batch.rows for batch in batches] == [4, 4, 1]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(9))
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"][:, 0] for batch in batches]), np.arange(9))


def test_rows_of_different_shapes_never_share_a_batch() -> None:
    short, long = ({"x": np.zeros((2, 3))}, None), ({"x": np.zeros((2, 5))}, None)
    batches = list(batches_from_chunks([short, long], OPEN_LAYOUT, 4))
    assert [batch.feeds["x"].shape for batch in batches] == [(2, 3), (2, 5)]


def test_fixed_batches_leave_out_an_incomplete_rest() -> None:
    batches = list(batches_from_chunks(chunks_of(5), RowLayout(2, is_whole=False), 32))
    assert [batch.rows for batch in batches] == [2, 2]


def test_a_whole_row_loses_its_row_axis() -> None:
    batches = list(batches_from_chunks(chunks_of(2), RowLayout(1, is_whole=True), 32))
    assert [batch.feeds["x"].shape for batch in batches] == [(3,), (3,)]
    assert all(batch.is_whole for batch in batches)


@pytest.mark.parametrize("given", [np.float64, np.float16, np.uint8, np.int64])
def test_numbers_are_cast_where_that_is_harmless(given: type[np.generic]) -> None:
    array = fit_array(np.array([[1, 2, 3]], dtype=given), X, "a")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1, 2, 3]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="validation/x holds NaN or infinity"):
        fit_array(np.array([[1.0, bad, 3.0]]), X, "validation/x")


def test_integers_must_not_overflow() -> None:
    spec = TensorSpec("n", DTYPES["INT8"], (-1,))
    np.testing.assert_array_equal(fit_array(np.array([1, -128]), spec, "n"), [1, -128])
    with pytest.raises(InvalidInput, match="do not fit INT8"):
        fit_array(np.array([1, 300]), spec, "n")


def test_floats_are_no_integers() -> None:
    with pytest.raises(InvalidInput, match="is float64; the model takes INT8"):
        fit_array(np.array([1.5]), TensorSpec("n", DTYPES["INT8"], (-1,)), "n")


def test_text_becomes_objects_and_numbers_are_no_text() -> None:
    spec = TensorSpec("t", DTYPES["BYTES"], (-1,))
    assert fit_array(np.array(["ab", "c"]), spec, "t").tolist() == ["ab", "c"]
    with pytest.raises(InvalidInput, match="the model takes text"):
        fit_array(np.array([1]), spec, "t")
