import numpy as np
import pytest

from optimizer.evaluate.distance import OutputDistance, absolute_difference, largest_value


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
