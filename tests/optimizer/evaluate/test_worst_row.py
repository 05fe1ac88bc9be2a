import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.data.feeds import Batch
from optimizer.evaluate.worst_row import WorstRow


def batch(rows: int) -> Batch:
    return Batch({}, None, rows)


def test_rows_are_counted_over_all_batches() -> None:
    worst = WorstRow({"y": 1.0})
    worst.update(batch(3), {"y": np.zeros((3, 2))}, {"y": np.full((3, 2), 0.1)})
    worst.update(batch(3), {"y": np.zeros((3, 2))}, {"y": np.array([[0, 0], [0, -0.5], [0.2, 0]])})
    assert worst.sample is not None
    assert (worst.sample.row, worst.sample.difference) == (4, 0.5)
    assert (worst.sample.source, worst.sample.built) == ((0.0, 0.0), (0.0, -0.5))


def test_outputs_of_different_sizes_compare_by_their_scale() -> None:
    worst = WorstRow({"large": 1000.0, "small": 1.0})
    source = {"large": np.zeros((2, 1)), "small": np.zeros((2, 1))}
    worst.update(batch(2), source, {"large": np.array([[9.0], [0.0]]), "small": np.array([[0.0], [0.5]])})
    assert worst.sample is not None
    assert (worst.sample.output, worst.sample.row, worst.sample.difference) == ("small", 1, 0.5)


def test_a_long_row_shows_its_first_values() -> None:
    worst = WorstRow({"y": 1.0})
    worst.update(batch(1), {"y": np.zeros((1, 10, 10))}, {"y": np.ones((1, 10, 10))})
    assert worst.sample is not None
    assert worst.sample.source == (0.0,) * 32


@pytest.mark.parametrize("output", [np.array(["a", "b"], object), np.zeros((3, 2)), np.zeros((2, 2))])
def test_equal_answers_text_and_outputs_without_rows_have_no_worst(output: Array) -> None:
    worst = WorstRow({"y": 1.0})
    worst.update(batch(2), {"y": output}, {"y": output.copy()})
    assert worst.sample is None


def test_a_feed_without_an_axis_of_rows_is_one_row() -> None:
    worst = WorstRow({"y": 1.0})
    for difference in (0.1, 0.3, 0.2):
        worst.update(Batch({}, None, 1, is_whole=True), {"y": np.zeros(4)}, {"y": np.full(4, difference)})
    assert worst.sample is not None
    assert (worst.sample.row, len(worst.sample.built)) == (1, 4)
