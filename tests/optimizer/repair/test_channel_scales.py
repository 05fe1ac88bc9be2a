import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.repair.channel_scales import Reader, best_scales
from optimizer.repair.channel_statistics import ChannelStatistics

RANDOM = np.random.default_rng(0)


def observed(sizes: Array) -> ChannelStatistics:
    """Normal channels of these sizes."""
    return ChannelStatistics(-3 * sizes, 3 * sizes, np.zeros(len(sizes)), sizes**2)


def simulated_error(activations: Array, weights: Array, factors: Array) -> float:
    """What INT8 does to the product: U8-like activations with one scale, S8 weights with one per output."""
    smooth, rough = activations / factors, weights * factors
    step = (smooth.max() - smooth.min()) / 255
    steps = np.abs(rough).max(axis=1, keepdims=True) / 127
    found = (np.rint(smooth / step) * step) @ (np.rint(rough / steps) * steps).T
    wanted = activations @ weights.T
    return float(np.square(found - wanted).mean() / np.square(wanted).mean())


def test_an_outlier_channel_is_divided_down_and_the_error_falls_as_predicted() -> None:
    sizes = np.ones(64)
    sizes[5] = 100.0
    activations = RANDOM.standard_normal((2000, 64)) * sizes
    weights = RANDOM.standard_normal((32, 64)) / sizes
    scales = best_scales([Reader(weights[None, :, :, None], observed(sizes))])
    assert scales.factors[5] > 10 * np.delete(scales.factors, 5).max()
    left = simulated_error(activations, weights, scales.factors) / simulated_error(activations, weights, np.ones(64))
    assert left < 0.05
    assert scales.error_left == pytest.approx(left, rel=0.5)


def test_balanced_channels_are_left_alone() -> None:
    weights = np.ones((1, 8, 16, 1))
    scales = best_scales([Reader(weights, observed(np.ones(16)))])
    assert scales.error_left > 0.99


def test_uniform_size_changes_nothing() -> None:
    sizes = np.logspace(-2, 0, 16)
    weights = RANDOM.standard_normal((1, 8, 16, 1))
    small, large = (best_scales([Reader(weights, observed(sizes * size))]) for size in (1.0, 1e6))
    np.testing.assert_allclose(small.factors, large.factors, rtol=1e-9)


def test_rows_of_different_size_change_nothing_because_each_has_its_own_scale() -> None:
    sizes, weights = np.logspace(-2, 0, 16), RANDOM.standard_normal((1, 8, 16, 1))
    rows = np.logspace(-3, 3, 8).reshape(1, 8, 1, 1)
    alike, unlike = (best_scales([Reader(each, observed(sizes))]) for each in (weights, weights * rows))
    np.testing.assert_allclose(alike.factors, unlike.factors, rtol=1e-9)


def test_the_features_of_a_flattened_channel_share_one_factor() -> None:
    sizes = np.repeat([1.0, 50.0], 4)
    scales = best_scales([Reader(RANDOM.standard_normal((1, 8, 8, 1)), observed(sizes), features=4)])
    assert scales.factors.shape == (2,)
    assert scales.factors[1] > scales.factors[0]


def test_channels_that_are_never_active_get_a_finite_factor() -> None:
    sizes = np.ones(8)
    sizes[3] = 0.0
    scales = best_scales([Reader(RANDOM.standard_normal((1, 4, 8, 1)), observed(sizes))])
    assert np.isfinite(scales.factors).all()
    assert (scales.factors > 0).all()


def test_a_silent_activation_is_left_alone() -> None:
    scales = best_scales([Reader(np.ones((1, 4, 8, 1)), observed(np.zeros(8)))])
    assert scales.error_left == 1
    np.testing.assert_array_equal(scales.factors, np.ones(8))


def test_depthwise_weights_are_read_group_by_group() -> None:
    sizes = np.logspace(-2, 0, 16)
    scales = best_scales([Reader(RANDOM.standard_normal((16, 1, 1, 9)), observed(sizes))])
    assert scales.error_left < 0.5
    assert scales.factors.shape == (16,)
