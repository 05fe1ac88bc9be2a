from pathlib import Path

import numpy as np

from optimizer.graph.graph import Graph
from optimizer.quantize.feed_parts import feed_parts, row_bytes, rows_within
from tests.optimizer.quantize.graphs import chain, graph_of, images, node


def test_parts_together_are_the_feed() -> None:
    feed = {"x": np.arange(14).reshape(7, 2), "y": np.arange(7)}
    parts = list(feed_parts(feed, 3))
    assert [len(part["x"]) for part in parts] == [3, 3, 1]
    for name, array in feed.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_a_feed_without_rows_stays_whole() -> None:
    feed = {"x": np.array(3.0)}
    assert list(feed_parts(feed, None)) == [feed]


def test_rows_fit_the_limit_and_are_at_least_one() -> None:
    assert rows_within(chain(), 10, 35) == 3
    assert rows_within(chain(), 100, 35) == 1
    assert rows_within(chain(), 0, 35) == 35
    assert rows_within(fixed(), 10, 35) is None


def test_the_size_of_a_row_is_that_of_each_tensor(tmp_path: Path) -> None:
    sizes = row_bytes(chain(), ["x", "c", "p", "y"], images(rows=4), tmp_path, 1)
    assert sizes == [3 * 64 * 4, 8 * 64 * 4, 8 * 16 * 4, 4 * 16 * 4]


def test_a_model_of_fixed_shape_counts_as_one_row(tmp_path: Path) -> None:
    assert row_bytes(fixed(), ["x", "y"], {"x": np.zeros((2, 5), np.float32)}, tmp_path, 1) == [40, 40]


def fixed() -> Graph:
    return graph_of([node("Relu", "x", "y")], {}, (2, 5))
