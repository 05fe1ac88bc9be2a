import pytest

from optimizer.report.figures import number_text, plural, shortened, size_text, times_text


def test_sizes_are_readable() -> None:
    sizes = (None, 12, 516_017, 97_800_000, 2_500_000_000)
    assert [size_text(size) for size in sizes] == ["–", "12 B", "516 kB", "97.8 MB", "2.5 GB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0747, "0.0747"),
        (1.6, "1.6"),
        (999.4, "999"),
        (1234.5, "1,234"),
        (3.42e-5, "3.42e-05"),
        (float("inf"), "∞"),
        (float("-inf"), "–∞"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_keep_three_digits_and_avoid_exponents(value: float | None, text: str) -> None:
    assert number_text(value) == text


def test_ratios_and_counts_read_well() -> None:
    assert [times_text(ratio) for ratio in (None, 1.004, 9.99, 9.996, 12.34)] == [
        "–",
        "1.00×",
        "9.99×",
        "10.0×",
        "12.3×",
    ]
    assert (plural(1, "row"), plural(1200, "row")) == ("1 row", "1,200 rows")


def test_a_text_is_shortened_between_words() -> None:
    text = "asked for FP16, and no layer runs in it"
    assert shortened(text, len(text)) == text
    assert shortened(text, 20) == "asked for FP16, and…"
    assert shortened(text, 17) == "asked for FP16…"
    assert len(shortened("x" * 30, 10)) <= 10
