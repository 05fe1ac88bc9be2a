from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.tolerance import tolerance_from_text
from optimizer.evaluate.verify import Judge

X = TensorSpec("x", DTYPES["FP32"], (-1, 2))
OUTPUTS = [TensorSpec(name, DTYPES["FP32"], (-1, 2)) for name in ("y", "z")]
JUDGE = Judge(None, tolerance_from_text("1%"), is_batched=False, seed=0)


def engine(function: Callable[[Array], Tensors]) -> FakeEngine:
    return FakeEngine([X], OUTPUTS, lambda feeds: function(feeds["x"]))


def both(x: Array) -> Tensors:
    return {"y": x, "z": 1000 * x}


class Rows:
    """Three batches of ones, opened anew each time and counted as they are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self) -> Iterator[Batch]:
        self.read.append(0)
        for rows in (4, 4, 2):
            self.read[-1] += 1
            yield Batch({"x": np.ones((rows, 2), np.float32)}, None, rows)


def test_the_original_runs_once_per_batch_whatever_the_candidates(tmp_path: Path) -> None:
    source = engine(both)
    reference = Reference(source, Rows(), JUDGE, tmp_path)
    assert all(reference.verify(engine(both), "fp32").is_accepted for _ in range(3))
    assert reference.error(engine(both), rows=100) == 0.0
    assert len(source.runs) == 3
    assert reference.rows == 10
    assert reference.source_score is None


def test_a_candidate_meets_the_answers_to_its_own_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    batches = [Batch({"x": random.standard_normal((5, 2))}, None, 5) for _ in range(4)]
    reference = Reference(engine(both), lambda: iter(batches), JUDGE, tmp_path)
    assert reference.verify(engine(both), "fp32").distance.largest == 0.0
    assert Reference(engine(both), lambda: iter(batches[::-1]), JUDGE, tmp_path).error(engine(both), 5) == 0.0


def test_answers_of_every_type_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    def answer(x: Array) -> Tensors:
        names = np.array(["cat", "dög "], dtype=object)
        return {"text": names, "half": np.ones(2, DTYPES["BF16"].numpy), "scalar": np.array(3.0)}

    found = Reference(engine(answer), lambda: iter([Batch({"x": np.ones((2, 2))}, None, 2)]), JUDGE, tmp_path)
    assert found.verify(engine(answer), "fp32").is_accepted
    changed = engine(lambda x: {**answer(x), "text": np.array(["cat", "cow"], dtype=object)})
    assert found.verify(changed, "fp32").output_difference == {"text": 1.0, "half": 0.0, "scalar": 0.0}


def test_the_error_is_the_squared_error_over_the_squared_length(tmp_path: Path) -> None:
    reference = Reference(engine(both), Rows(), JUDGE, tmp_path)
    assert reference.error(engine(lambda x: {"y": 1.1 * x, "z": 1100 * x}), rows=10) == pytest.approx(0.01)


def test_an_output_of_large_numbers_does_not_hide_the_error_of_another(tmp_path: Path) -> None:
    reference = Reference(engine(both), Rows(), JUDGE, tmp_path)
    assert reference.error(engine(lambda x: {"y": 0 * x, "z": 1000 * x}), rows=10) == pytest.approx(0.5)


def test_the_error_is_infinite_where_an_answer_is_not_finite_or_has_another_shape(tmp_path: Path) -> None:
    reference = Reference(engine(both), Rows(), JUDGE, tmp_path)
    assert reference.error(engine(lambda x: {"y": np.nan * x, "z": 1000 * x}), rows=4) == np.inf
    assert reference.error(engine(lambda x: {"y": x[:1], "z": 1000 * x}), rows=4) == np.inf


def test_the_error_reads_no_more_rows_than_it_needs(tmp_path: Path) -> None:
    rows = Rows()
    reference = Reference(engine(both), rows, JUDGE, tmp_path)
    candidate = engine(both)
    reference.error(candidate, rows=3)
    assert len(candidate.runs) == 1
    assert rows.read == [3, 1]


def test_the_error_of_an_engine_that_fails_is_no_number(tmp_path: Path) -> None:
    broken = engine(both)
    broken.failures.append(EngineFailed("no kernel"))
    with pytest.raises(EngineFailed, match="no kernel"):
        Reference(engine(both), Rows(), JUDGE, tmp_path).error(broken, rows=3)


def test_a_candidate_that_is_not_comparable_is_run_no_further(tmp_path: Path) -> None:
    candidate = engine(lambda x: {"y": x[:1], "z": x})
    found = Reference(engine(both), Rows(), JUDGE, tmp_path).verify(candidate, "fp32")
    assert (found.is_accepted, len(candidate.runs)) == (False, 1)
    assert "another shape" in found.reason


def test_an_engine_that_cannot_run_a_single_row_has_failed(tmp_path: Path) -> None:
    def refuses_one(x: Array) -> Tensors:
        if len(x) == 1:
            raise EngineFailed("batch 1 is outside the profile")
        return both(x)

    judge = replace(JUDGE, is_batched=True)
    found = Reference(engine(both), Rows(), judge, tmp_path).verify(engine(refuses_one), "fp32")
    assert (found.has_failed, found.reason) == (True, "batch 1 is outside the profile")


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no rows to judge"):
        Reference(engine(both), lambda: iter([]), JUDGE, tmp_path)
