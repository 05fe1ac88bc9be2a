import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.quantize.observation import BINS, Observation
from optimizer.quantize.range_search import Cost, Range, divergence, searched_range, squared_error

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(200_000)


def observed(values: Array) -> Observation:
    low, high = float(values.min()), float(values.max())
    return Observation(low, high, np.histogram(values, BINS, (low, high))[0])


def true_error(values: Array, bounds: Range, levels: int = 256) -> float:
    step = (bounds[1] - bounds[0]) / (levels - 1)
    zero = np.round(-bounds[0] / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step
    return float(((rounded - values) ** 2).mean())


def found(values: Array, cost: Cost, symmetric: bool = False, levels: int = 256) -> Range:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    full = (-max(-low, high), max(-low, high)) if symmetric else (low, high)
    return searched_range(observed(values), full, levels, cost, symmetric)


def test_the_histogram_tells_the_squared_error_of_the_values() -> None:
    for bounds in ((-5.0, 5.0), (-3.0, 3.0), (-1.0, 4.0)):
        told = squared_error(observed(NORMAL), bounds, 256) / len(NORMAL)
        assert told == pytest.approx(true_error(NORMAL, bounds), rel=0.05)


def test_a_normal_tensor_in_four_bits_is_clipped_where_the_literature_says() -> None:
    """The uniform quantizer of 16 levels that is best for a normal distribution reaches 2.68 deviations (Max, 1960)."""
    low, high = found(NORMAL, squared_error, symmetric=True, levels=16)
    assert high == pytest.approx(2.68, abs=0.15)
    assert low == -high


@pytest.mark.parametrize("cost", [squared_error, divergence])
def test_evenly_spread_values_are_not_clipped(cost: Cost) -> None:
    values = RANDOM.random(200_000)
    low, high = found(values, cost)
    assert low == 0.0
    assert high == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_value_far_outside_is_given_up(symmetric: bool) -> None:
    low, high = found(np.append(NORMAL, 200.0), divergence, symmetric)
    assert 3 < high < 60
    assert low == (-high if symmetric else pytest.approx(-4, abs=1.5))


def test_the_range_of_least_error_is_found() -> None:
    values = np.append(NORMAL, [60.0, 90.0])
    low, high = found(values, squared_error)
    grid = [(low_end, high_end) for low_end in np.linspace(-5, -2, 10) for high_end in np.linspace(3, 90, 60)]
    best = min(true_error(values, one) for one in grid)
    assert true_error(values, (low, high)) < 1.03 * best < 0.9 * true_error(values, (float(values.min()), 90.0))


def test_the_ends_are_searched_one_by_one() -> None:
    """A short end stays whole while the long one is clipped: shrinking both would cut what is below zero."""
    values = np.concatenate([RANDOM.uniform(-0.5, 3.0, 1_000_000), [8.0]])
    low, high = found(values, squared_error)
    assert low == pytest.approx(-0.5, abs=0.03)
    assert high < 4
    together = [(values.min() * share, 8 * share) for share in np.linspace(0.2, 1, 81)]
    assert true_error(values, (low, high)) < 0.5 * min(true_error(values, one) for one in together)


def test_a_range_that_holds_nothing_is_never_chosen() -> None:
    values = np.append(np.full(1000, 10.0), 9.0)
    assert divergence(observed(values), (0.0, 5.0), 256) == float("inf")
    assert found(values, divergence)[1] > 9.9


def test_zeros_of_an_activation_do_not_outweigh_the_rest() -> None:
    values = np.maximum(np.append(NORMAL, 200.0), 0)
    few, many = observed(values), observed(np.concatenate([values, np.zeros(1_000_000)]))
    for bounds in ((0.0, 2.0), (0.0, 4.0), (0.0, 100.0)):
        assert divergence(many, bounds, 256) == divergence(few, bounds, 256)
