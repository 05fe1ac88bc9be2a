import pytest

from enginehouse.errors import InvalidInput
from optimizer.evaluate.tolerance import tolerance_from_text


def test_a_percent_of_a_share_is_a_point() -> None:
    assert tolerance_from_text("1%").limit(0.9, is_share=True) == pytest.approx(0.01)


def test_a_percent_of_an_error_is_of_the_original_error() -> None:
    assert tolerance_from_text("10%").limit(4.0, is_share=False) == pytest.approx(0.4)


def test_a_plain_number_is_taken_as_it_is() -> None:
    tolerance = tolerance_from_text("0.02")
    assert tolerance.limit(0.9, is_share=True) == tolerance.limit(4.0, is_share=False) == 0.02


@pytest.mark.parametrize("text", ["1%", "0.5%", "0.02", "-1%", "0"])
def test_it_prints_as_it_was_written(text: str) -> None:
    assert str(tolerance_from_text(text)) == text


@pytest.mark.parametrize("text", ["", "%", "one", "nan", "inf%", "1 percent"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected a percent such as 1%"):
        tolerance_from_text(text)


def test_a_percent_of_a_score_below_zero_is_of_its_size() -> None:
    assert tolerance_from_text("10%").limit(-4.0, is_share=False) == pytest.approx(0.4)
