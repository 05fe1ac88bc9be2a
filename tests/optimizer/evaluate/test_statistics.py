import numpy as np
import pytest

from optimizer.evaluate.statistics import drop_of_hits, drop_of_scores, lower_95_of_median


def test_no_discordant_row_is_no_drop() -> None:
    drop = drop_of_hits(0, 0, 100)
    assert (drop.point, drop.p_value) == (0.0, 1.0)
    assert 0 < drop.upper_95 < 0.03


@pytest.mark.parametrize(
    ("lost", "won", "expected"),
    [(5, 0, 1 / 32), (3, 1, 5 / 16), (1, 3, 15 / 16), (0, 4, 1.0)],
)
def test_mcnemar_is_exact(lost: int, won: int, expected: float) -> None:
    assert drop_of_hits(lost, won, 50).p_value == pytest.approx(expected)


def test_the_bound_is_that_of_bonett_and_price() -> None:
    # (12 + 1) / 102 - (4 + 1) / 102 + 1.64485 * sqrt((18 / 102 - (8 / 102)^2) / 102)
    assert drop_of_hits(12, 4, 100).upper_95 == pytest.approx(0.14566, abs=1e-4)


def test_the_bound_covers_the_true_drop_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    counts = random.multinomial(300, [0.05, 0.02, 0.93], size=2000)
    covered = np.mean([drop_of_hits(int(lost), int(won), 300).upper_95 >= 0.03 for lost, won, _ in counts])
    assert 0.93 < covered < 0.98


def test_many_discordant_rows_do_not_overflow() -> None:
    assert drop_of_hits(3000, 2500, 100_000).p_value < 1e-10
    assert drop_of_hits(2750, 2750, 100_000).p_value == pytest.approx(0.5, abs=0.01)


def test_equal_scores_are_no_drop() -> None:
    drop = drop_of_scores(np.zeros(10), 0)
    assert (drop.point, drop.upper_95, drop.p_value) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [400, 20_000])
def test_a_clear_drop_of_scores_is_significant(rows: int) -> None:
    drops = np.random.default_rng(0).normal(0.1, 0.2, rows)
    drop = drop_of_scores(drops, 0)
    assert drop.is_significant
    assert drop.point < drop.upper_95 < drop.point + 0.05


def test_scores_that_got_better_are_never_significantly_worse() -> None:
    assert not drop_of_scores(np.random.default_rng(0).normal(-0.1, 0.2, 200), 0).is_significant


def test_the_bootstrap_is_seeded() -> None:
    drops = np.random.default_rng(1).normal(0, 1, 50)
    assert drop_of_scores(drops, 3) == drop_of_scores(drops, 3)


def test_the_lower_bound_of_a_median_lies_below_it_and_above_the_minimum() -> None:
    values = np.array([1.0, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 2.0])
    assert 1.0 <= lower_95_of_median(values, 0) < np.median(values)
    assert lower_95_of_median(np.full(9, 1.5), 0) == 1.5
