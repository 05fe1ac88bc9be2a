"""The original's answers on the judged rows: computed once, kept on disk, compared with every candidate.

One batch is in memory at a time, whatever the number of rows, outputs and candidates.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.tensor import Tensors
from optimizer.data.feeds import Batch
from optimizer.evaluate.batch_invariance import check_batch_invariance
from optimizer.evaluate.comparison import Comparison
from optimizer.evaluate.distance import SquaredError, largest_value
from optimizer.evaluate.kept_outputs import KeptOutputs
from optimizer.evaluate.verify import (
    Judge,
    Verification,
    failed,
    refuse_mixed_rows,
    refuse_no_numbers,
    verdict,
)

INVARIANCE_ROWS = 32


class Reference:
    """What every candidate is compared with.

    Args:
        source: the original model; it runs once per batch here, and never again.
        read_batches: opens the judged rows anew, always the same: the validation split, or synthetic rows where the
            judge has no metric.
        judge: metric, tolerance and seed.
        workdir: an existing folder for the answers.

    Raises:
        InvalidInput: there are no rows.
        VerifyFailed: the original's own score is not a number on some rows; or it mixes the rows of a batch itself,
            and the judge does not allow it.
    """

    def __init__(
        self, source: Engine, read_batches: Callable[[], Iterator[Batch]], judge: Judge, workdir: Path
    ) -> None:
        self._read_batches = read_batches
        self._judge = judge
        self._kept = KeptOutputs(workdir / "reference.npy")
        self._scales: dict[str, float] = {}
        self._first: Tensors = {}
        self.rows = 0
        scores = [self._answer(source, batch) for batch in read_batches()]
        if not scores:
            raise InvalidInput("there are no rows to judge candidates by; at least one is expected.")
        self._source_scores: Array = np.concatenate(scores)
        if judge.is_batched and not judge.allows_batch_variance:
            refuse_mixed_rows(check_batch_invariance(source, self._first, "fp32"))

    @property
    def source_score(self) -> float | None:
        """The original's own score; None where the judge has no metric."""
        return self._judge.metric.total(self._source_scores) if self._judge.metric is not None else None

    def verify(self, engine: Engine, precision: str) -> Verification:
        """Run a candidate on every row and judge it; one that fails while it runs gets a verdict too."""
        comparison = Comparison(self._judge.metric, self._scales)
        try:
            for batch, expected in self._pairs():
                comparison.add(batch, expected, engine.run(batch.feeds))
                if not comparison.is_comparable:
                    break
            return verdict(comparison, engine, precision, self._source_scores, self._first, self._judge)
        except EngineFailed as problem:
            return failed(str(problem))

    def error(self, engine: Engine, rows: int) -> float:
        """Squared error of the outputs over their squared length, the mean over the outputs: 0 where all are equal.

        Args:
            engine: the candidate.
            rows: at least so many of the first rows are run, in whole batches.

        Raises:
            EngineFailed: the candidate cannot run them.
        """
        error, done = SquaredError(), 0
        for batch, expected in self._pairs():
            error.update(expected, engine.run(batch.feeds))
            done += batch.rows
            if done >= rows:
                break
        return error.mean

    def _answer(self, source: Engine, batch: Batch) -> Array:
        """Run and keep; the scores of the rows, none without a metric."""
        outputs = source.run(batch.feeds)
        self._kept.append(outputs)
        self.rows += batch.rows
        for name, array in outputs.items():
            self._scales[name] = max(self._scales.get(name, 0.0), largest_value(array))
        if not self._first:
            self._first = _first_rows(batch.feeds)
        if self._judge.metric is None:
            return np.empty(0)
        scores = self._judge.metric.scores(outputs, outputs, batch)
        refuse_no_numbers(self._judge.metric, scores)
        return scores

    def _pairs(self) -> Iterator[tuple[Batch, Tensors]]:
        return zip(self._read_batches(), self._kept.read(), strict=True)


def _first_rows(feeds: Tensors) -> Tensors:
    return {name: array[:INVARIANCE_ROWS] if array.ndim else array for name, array in feeds.items()}
