"""The rows that `compare`, `bench` and `verify` run: the user's, or seeded ones where there is no data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from enginehouse.engine import Engine
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.dataset import DataSet, open_data
from optimizer.data.feeds import Batch
from optimizer.data.synthetic import synthetic_feeds
from optimizer.evaluate.metrics import Metric, metric_from_name

_BATCH_ROWS = 32
_SPLIT = "validation"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that fit all engines that are compared."""

    data: DataSet | None
    inputs: tuple[TensorSpec, ...]
    is_batched: bool
    seed: int

    def batches(self) -> Iterator[Batch]:
        """The validation split, or one batch of seeded rows."""
        if self.data is not None:
            return self.data.batches(_SPLIT, _BATCH_ROWS)
        feeds = synthetic_feeds(self.inputs, _BATCH_ROWS, self.is_batched, self.seed)
        return iter([Batch(feeds, None, _BATCH_ROWS if self.is_batched else 1, is_whole=not self.is_batched)])

    def feeds(self, rows: int) -> Tensors:
        """One feed of so many rows, or of as many as the model is made for."""
        if self.data is None:
            return synthetic_feeds(self.inputs, rows, self.is_batched, self.seed)
        feeds = next(self.data.batches(_SPLIT, rows)).feeds
        if not self.is_batched:
            return feeds
        have = len(next(iter(feeds.values())))
        return {name: array[np.arange(rows) % have] for name, array in feeds.items()}

    def batch_sizes(self, wanted: Sequence[int]) -> tuple[int, ...]:
        return tuple(wanted) if self.is_batched else (1,)

    def metric(self, name: str | None, outputs: Sequence[TensorSpec]) -> Metric | None:
        """What scores the first output; None without data, where outputs are only compared.

        Raises:
            InvalidInput: a metric that does not suit the output, or needs labels that are not there.
        """
        if self.data is None:
            if name not in (None, "agreement"):
                raise InvalidInput(f"metric {name} needs labels, and no data was given. Add --data.")
            return None
        first = outputs[0]
        output = replace(first, shape=(-1, *first.shape)) if self.data.is_whole else first
        return metric_from_name(name, output, self.data.has_labels)

    def __str__(self) -> str:
        if self.data is None:
            return "seeded synthetic rows"
        return f"{self.data.rows[_SPLIT]} {_SPLIT} rows"


def open_rows(data: str | None, engines: Sequence[Engine], seed: int, workdir: Path) -> Rows:
    """Open what `--data` names.

    Args:
        data: an `.npz` file, a folder of them, or `path.py:function`; None for seeded rows.
        engines: rows may be batched where the batch axis of all of them is open.
        seed: of the splits and the seeded rows.
        workdir: an existing folder for rows that a function yields.

    Raises:
        InvalidInput: data that does not fit, or has no validation rows.
    """
    inputs = engines[0].inputs
    is_batched = all(spec.shape and spec.shape[0] == -1 for engine in engines for spec in engine.inputs)
    found = open_data(data, inputs, is_batched, seed, workdir) if data is not None else None
    if found is not None and not found.rows[_SPLIT]:
        raise InvalidInput(
            f"the data {data} has no validation rows, only {found}; models are compared on them. "
            "Add arrays named 'validation/<input name>'."
        )
    return Rows(found, inputs, is_batched, seed)
