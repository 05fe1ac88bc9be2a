import numpy as np
import pytest

from optimizer.quantize.qdq import LARGEST_WEIGHT, activation_numbers, channel_axis, weight_scales
from tests.optimizer.quantize.graphs import conv, node


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.5, 4.0), (-7.0, -3.0)])
def test_a_range_is_covered_and_zero_is_exact(low: float, high: float) -> None:
    numbers = activation_numbers(low, high, "u8s8")
    assert numbers.zero.dtype == np.uint8
    ends = (np.array([0.0, 255.0]) - float(numbers.zero)) * numbers.scale
    assert ends[0] <= min(low, 0.0) + numbers.scale / 2
    assert ends[1] >= max(high, 0.0) - numbers.scale / 2


def test_what_is_never_negative_uses_all_integers() -> None:
    numbers = activation_numbers(0.0, 2.55, "u8s8")
    assert numbers.zero == 0
    assert numbers.scale == pytest.approx(0.01)


def test_the_symmetric_scheme_spans_the_larger_side_both_ways() -> None:
    numbers = activation_numbers(-1.27, 0.5, "s8s8")
    assert numbers.zero.dtype == np.int8
    assert numbers.zero == 0
    assert numbers.scale == pytest.approx(0.01)


def test_a_range_without_width_has_a_scale_all_the_same() -> None:
    assert activation_numbers(0.0, 0.0, "u8s8").scale == 1
    assert activation_numbers(0.0, 1e-40, "s8s8").scale > 0


def test_the_largest_weight_of_a_channel_is_the_largest_integer() -> None:
    weight = np.array([[1.0, -2.0], [0.25, 0.5]], np.float32)
    assert weight_scales(weight, 0, 127) * 127 == pytest.approx([2.0, 0.5])
    assert weight_scales(weight, 1, 64) * 64 == pytest.approx([1.0, 2.0])


def test_a_channel_without_weights_takes_the_smallest_scale() -> None:
    weight = np.array([[1.0, -2.0], [0.0, 0.0], [0.25, 0.5]], np.float32)
    assert weight_scales(weight, 0, 1) == pytest.approx([2.0, 0.5, 0.5])
    assert weight_scales(np.zeros((2, 2), np.float32), 0, 1) == pytest.approx([1.0, 1.0])


def test_pairs_of_products_with_seven_bits_fit_into_sixteen() -> None:
    assert 2 * 255 * LARGEST_WEIGHT["u8s7"] < 2**15 <= 2 * 255 * LARGEST_WEIGHT["u8s8"]


def test_output_channels_are_found_whichever_way_round() -> None:
    assert channel_axis(conv("x w", "y")) == 0
    assert channel_axis(node("Gemm", "x w", "y", transB=1)) == 0
    assert channel_axis(node("Gemm", "x w", "y")) == 1
    assert channel_axis(node("MatMul", "x w", "y")) == 1
