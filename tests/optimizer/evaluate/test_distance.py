import numpy as np
import pytest

from optimizer.evaluate.distance import OutputDistance, SquaredError, absolute_difference, largest_value


def test_largest_and_mean_run_over_all_batches_and_outputs() -> None:
    distance = OutputDistance()
    distance.update({"a": np.array([1.0, 2.0])}, {"a": np.array([1.0, 2.5])})
    distance.update({"a": np.array([4.0]), "b": np.array([0])}, {"a": np.array([4.0]), "b": np.array([1])})
    assert (distance.largest, distance.scale) == (1.0, 4.0)
    assert distance.mean == pytest.approx(1.5 / 4)


def test_equal_nan_and_infinity_do_not_differ() -> None:
    strange = np.array([np.nan, np.inf, -np.inf, 1.0])
    np.testing.assert_array_equal(absolute_difference(strange, strange.copy()), np.zeros(4))


@pytest.mark.parametrize("found", [np.nan, np.inf])
def test_what_is_not_finite_differs_by_infinity(found: float) -> None:
    assert absolute_difference(np.array([1.0]), np.array([found])) == np.inf


def test_another_shape_differs_by_infinity() -> None:
    assert absolute_difference(np.zeros(3), np.zeros(4)).max() == np.inf


def test_text_is_equal_or_not() -> None:
    found = absolute_difference(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert found.tolist() == [0.0, 1.0]


def test_the_scale_ignores_what_is_not_finite() -> None:
    assert largest_value(np.array([-3.0, np.inf, 2.0])) == 3.0
    assert largest_value(np.array([], np.float32)) == 0.0
    assert OutputDistance().mean == 0.0


def test_each_output_has_its_own_largest_difference() -> None:
    distance = OutputDistance()
    for step in (0.5, 0.25):
        distance.update({"y": np.zeros(2), "z": np.zeros(3)}, {"y": np.full(2, step), "z": np.ones(3)})
    assert distance.by_output == {"y": 0.5, "z": 1.0}
    assert distance.largest == 1.0


def test_the_squared_error_leaves_out_what_is_not_finite_in_the_original() -> None:
    error = SquaredError()
    error.update({"y": np.array([2.0, -np.inf, np.nan])}, {"y": np.array([1.0, -np.inf, 5.0])})
    assert error.mean == 0.25


def test_the_squared_error_of_whole_numbers_and_text_is_the_share_that_differs() -> None:
    error = SquaredError()
    error.update({"y": np.array([1, 2, 3, 400])}, {"y": np.array([1, 2, 3, 5])})
    assert error.mean == 0.25
    error.update({"z": np.array(["a", "b"], object)}, {"z": np.array(["a", "c"], object)})
    assert error.mean == (0.25 + 0.5) / 2


def test_an_error_where_the_original_is_zero_is_infinite() -> None:
    error = SquaredError()
    assert error.mean == 0.0
    error.update({"y": np.zeros(2)}, {"y": np.zeros(2)})
    assert error.mean == 0.0
    error.update({"y": np.zeros(2)}, {"y": np.ones(2)})
    assert error.mean == np.inf
