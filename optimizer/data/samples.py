"""A few rows to run a model with: the first of the calibration split, or seeded ones where there is no data."""

import numpy as np

from enginehouse.tensor import Tensors
from optimizer.data.dataset import DataSet
from optimizer.data.synthetic import synthetic_feeds
from optimizer.graph.graph import Graph


def sample_feeds(graph: Graph, data: DataSet | None, rows: int, seed: int) -> Tensors:
    """Make one feed of exactly `rows` rows, or of as many as the model is made for; rows repeat where there are fewer.

    The test split is never touched.
    """
    if data is None:
        return synthetic_feeds(graph.inputs, rows, graph.batch_axis_open, seed)
    split = calibration_split(data) or "validation"
    feeds = next(data.batches(split, rows)).feeds
    return _repeated(feeds, rows) if graph.batch_axis_open else feeds


def calibration_split(data: DataSet) -> str | None:
    """Where rows to calibrate on come from: their own split, or else the rows that the model was trained on."""
    return next((split for split in ("calibration", "train") if data.rows[split]), None)


def _repeated(feeds: Tensors, rows: int) -> Tensors:
    have = len(next(iter(feeds.values())))
    return {name: array[np.arange(rows) % have] for name, array in feeds.items()}
