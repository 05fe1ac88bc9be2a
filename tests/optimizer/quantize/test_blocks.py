import numpy as np
import pytest

from optimizer.quantize.blocks import four_bit_blocks, packed
from tests.optimizer.quantize.graphs import weight


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("inputs", [64, 70, 7])
def test_the_matrix_comes_back_nearly(inputs: int, is_signed: bool) -> None:
    matrix = weight(inputs, 5)
    blocks = four_bit_blocks(matrix, 32, is_signed)
    assert blocks.integers.shape == (5, -(-inputs // 32), 32)
    back = blocks.matrix(inputs)
    assert back.shape == matrix.shape
    assert np.abs(back - matrix).max() < np.abs(matrix).max() / 6
    assert blocks.integers.min() >= (-8 if is_signed else 0)
    assert blocks.integers.max() <= (7 if is_signed else 15)
    assert is_signed == (not blocks.zeros.any())


def test_what_four_bits_can_say_is_said_exactly() -> None:
    signed = np.arange(-8, 8, dtype=np.float32)[:, None] * 0.5
    assert np.array_equal(four_bit_blocks(signed, 16, is_signed=True).matrix(16), signed)
    shifted = np.arange(-3, 13, dtype=np.float32)[:, None] * 0.5
    assert np.array_equal(four_bit_blocks(shifted, 16, is_signed=False).matrix(16), shifted)


def test_each_block_has_a_scale_of_its_own() -> None:
    matrix = np.concatenate((weight(32, 1), weight(32, 1) * 1000))
    back = four_bit_blocks(matrix, 32, is_signed=True).matrix(64)
    assert np.abs(back - matrix)[:32].max() < np.abs(matrix[:32]).max() / 6


def test_a_narrower_range_is_taken_where_it_errs_less() -> None:
    matrix = np.random.default_rng(0).standard_normal((128, 400)).astype(np.float32)
    found = ((four_bit_blocks(matrix, 128, is_signed=True).matrix(128) - matrix) ** 2).sum()
    full = np.maximum(matrix.max(axis=0) / 7, matrix.min(axis=0) / -8)
    plain = ((np.rint(matrix / full).clip(-8, 7) * full - matrix) ** 2).sum()
    assert found < 0.9 * plain


def test_a_block_of_zeros_stays_zero() -> None:
    for is_signed in (False, True):
        assert not four_bit_blocks(np.zeros((16, 2), np.float32), 16, is_signed).matrix(16).any()


def test_two_integers_make_a_byte_the_first_in_the_low_half() -> None:
    assert packed(np.array([[1, 15, 3]], np.int8)).tolist() == [[0xF1, 0x03]]
    assert packed(np.array([-8, 7], np.int8)).tolist() == [0x78]
