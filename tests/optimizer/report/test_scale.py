import pytest

from optimizer.report.scale import broken, linear, logarithmic


def test_equal_ratios_take_equal_room() -> None:
    scale = logarithmic([1, 100])
    middle = scale.place(10)
    assert middle == pytest.approx(0.5)
    assert scale.place(100) - middle == pytest.approx(middle - scale.place(1))
    assert 0 < scale.place(1) < scale.place(100) < 1
    assert scale.ticks == (1, 10, 100)


def test_a_narrow_logarithmic_axis_still_has_ticks() -> None:
    assert len(logarithmic([0.0747, 0.0752]).ticks) >= 2
    assert 0 < logarithmic([3.0]).place(3.0) < 1


def test_a_linear_axis_has_round_ticks() -> None:
    scale = linear(0.0, 0.031)
    assert scale.ticks == pytest.approx((0.0, 0.01, 0.02, 0.03))
    assert scale.place(0.0155) == pytest.approx(0.5)
    assert linear(2.0, 2.0).place(2.0) == 0.0


def test_a_broken_axis_compresses_what_lies_beyond_the_cut() -> None:
    scale = broken(0.0, 0.03, 0.8)
    assert scale.place(0.03) == pytest.approx(0.75)
    assert scale.place(0.8) == pytest.approx(1.0)
    assert scale.place(0.03) == pytest.approx(scale.place(0.0300001), abs=1e-4)
    assert scale.cut == 0.03
    assert max(scale.ticks) > 0.03


def test_an_axis_that_nothing_exceeds_is_not_broken() -> None:
    assert broken(0.0, 0.03, 0.02).cut is None
