import numpy as np
import pytest

from optimizer.evaluate.summary import MacroF1, MeanOfHits, MeanOfScores


def test_the_drop_of_an_error_is_its_growth() -> None:
    before, after = np.zeros(50), np.ones(50)
    assert MeanOfScores(higher_is_better=False).drop(before, after, 0).point == 1.0
    assert MeanOfScores(higher_is_better=True).drop(before, after, 0).point == -1.0


def test_hits_are_compared_in_pairs() -> None:
    before, after = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    drop = MeanOfHits().drop(before, after, 0)
    assert (drop.point, drop.p_value) == (0.0, 0.75)


def pairs(found: list[int], labels: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.stack([np.array(found), np.array(labels)], axis=1)


def test_a_class_that_is_never_given_and_never_right_lowers_f1() -> None:
    assert MacroF1().total(pairs([0, 0, 1], [0, 0, 1])) == 1.0
    assert MacroF1().total(pairs([0, 0, 0], [0, 0, 1])) == pytest.approx((0.8 + 0) / 2)
    assert MacroF1().total(pairs([0, 0, 2], [0, 0, 1])) == pytest.approx((1 + 0 + 0) / 3)


def test_an_equal_candidate_drops_nothing_for_sure() -> None:
    rows = pairs([0, 1, 1] * 20, [0, 1, 0] * 20)
    drop = MacroF1().drop(rows, rows.copy(), 0)
    assert (drop.point, drop.upper_95, drop.p_value) == (0.0, 0.0, 1.0)


def test_the_bound_of_f1_holds_the_drop_and_shrinks_with_rows() -> None:
    labels = [0, 1] * 50
    worse = [1 - label if row % 20 == 0 else label for row, label in enumerate(labels)]
    few = MacroF1().drop(pairs(labels, labels), pairs(worse, labels), 0)
    many = MacroF1().drop(pairs(labels * 20, labels * 20), pairs(worse * 20, labels * 20), 0)
    assert few.point == pytest.approx(many.point) == pytest.approx(0.05, abs=0.001)
    assert few.point < many.upper_95 < few.upper_95
    assert MacroF1().drop(pairs(labels, labels), pairs(worse, labels), 0) == few


def test_a_better_candidate_has_a_negative_drop() -> None:
    labels = [0, 1, 2] * 30
    drop = MacroF1().drop(pairs([0] * 90, labels), pairs(labels, labels), 0)
    assert drop.point < 0
    assert not drop.is_significant
