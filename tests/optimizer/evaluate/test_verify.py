import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed, VerifyFailed
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.metrics import metric_from_name
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.tolerance import tolerance_from_text
from optimizer.evaluate.verify import Judge, Verification

ROWS = 200
X = TensorSpec("x", DTYPES["FP32"], (-1, 2))
Y = TensorSpec("y", DTYPES["FP32"], (-1, 2))
Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def engine(function: Function) -> FakeEngine:
    def run(feeds: Tensors) -> Tensors:
        return {"y": function(feeds["x"]).astype(np.float32)}

    return FakeEngine([X], [Y], run)


def identity(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x


def wrong_below(bound: float) -> Function:
    """Turn the two scores round in rows whose first one is below the bound."""
    return lambda x: np.where(x[:, :1] < bound, x[:, ::-1], x)


def batches(labels: bool = True) -> list[Batch]:
    """Rows (0, 1), (1, 2) … whose second score is the higher: all are of class 1."""
    x = np.arange(ROWS, dtype=np.float32)[:, None] + np.array([0, 1], np.float32)
    return [
        Batch({"x": piece}, np.ones(len(piece), np.int64) if labels else None, len(piece))
        for piece in np.array_split(x, 7)
    ]


def judge(max_drop: str, metric: str | None = "top1", is_batched: bool = True) -> Judge:
    chosen = metric_from_name(metric, Y, has_labels=metric != "agreement") if metric else None
    return Judge(chosen, tolerance_from_text(max_drop), is_batched, seed=0)


def verified(
    candidate: FakeEngine,
    by: Judge,
    rows: Sequence[Batch] | None = None,
    source: FakeEngine | None = None,
    precision: str = "fp32",
) -> Verification:
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(source or engine(identity), lambda: iter(rows or batches()), by, Path(folder))
        return reference.verify(candidate, precision)


def test_an_equal_candidate_is_accepted_with_its_record() -> None:
    found = verified(engine(identity), judge("0"))
    assert found.is_accepted
    assert found.metric is not None
    assert (found.metric.rows, found.metric.source, found.metric.candidate, found.metric.drop) == (ROWS, 1.0, 1.0, 0.0)
    assert found.distance.largest == 0.0
    assert found.invariance is not None
    assert found.invariance.holds


def test_a_drop_beyond_the_tolerance_is_rejected_with_both_numbers() -> None:
    found = verified(engine(wrong_below(4)), judge("1%"))
    assert not found.is_accepted
    assert found.reason == "top1 drops by 2.00%, 1% is allowed"


def test_a_drop_inside_the_tolerance_is_accepted_while_chance_explains_it() -> None:
    found = verified(engine(wrong_below(2)), judge("1%"))
    assert found.metric is not None
    assert found.metric.drop_upper_95 > 0.01
    assert found.metric.p_value > 0.05
    assert found.is_accepted


def test_a_significant_drop_that_may_exceed_the_tolerance_is_rejected() -> None:
    found = verified(engine(wrong_below(8)), judge("4%"))
    assert found.metric is not None
    assert found.metric.drop == pytest.approx(0.04)
    assert not found.is_accepted
    assert "significantly worse (p 0.0039)" in found.reason


def test_a_significant_drop_that_stays_below_the_tolerance_is_accepted() -> None:
    assert verified(engine(wrong_below(8)), judge("10%")).is_accepted


def test_a_negative_tolerance_rejects_an_equal_candidate() -> None:
    assert not verified(engine(identity), judge("-1%")).is_accepted


def test_agreement_needs_no_labels() -> None:
    found = verified(engine(wrong_below(4)), judge("1%", "agreement"), batches(labels=False))
    assert found.metric is not None
    assert (found.metric.source, found.metric.candidate) == (1.0, 0.98)
    assert not found.is_accepted


def test_without_a_metric_outputs_must_be_equal_up_to_rounding() -> None:
    assert verified(engine(lambda x: x * (1 + 1e-5)), judge("1%", None), batches(False)).is_accepted
    found = verified(engine(lambda x: x * 1.01), judge("1%", None), batches(False))
    assert found.reason == "outputs differ by up to 2, 0.2 is allowed without data"


def test_a_candidate_whose_rows_see_each_other_is_rejected() -> None:
    def sees_company(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x + np.float32(0.01 * len(x)) * x

    found = verified(engine(sees_company), judge("1%"))
    assert "a row alone differs from the row among others" in found.reason


def test_rows_are_not_compared_with_company_where_nothing_is_batched() -> None:
    found = verified(engine(identity), judge("1%", is_batched=False))
    assert found.invariance is None
    assert found.is_accepted


def test_an_original_that_mixes_rows_is_refused() -> None:
    mixes = engine(lambda x: x - x.mean(axis=0))
    with pytest.raises(VerifyFailed, match=r"cannot be batched\. Build it with --max-batch-size 1"):
        verified(mixes, judge("1%"), source=mixes)


def test_company_may_change_a_row_where_the_judge_allows_it() -> None:
    def sees_company(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x + np.float32(0.01 * len(x)) * x

    lenient = replace(judge("1%"), allows_batch_variance=True)
    found = verified(engine(sees_company), lenient, source=engine(sees_company))
    assert found.is_accepted
    assert found.invariance is not None
    assert not found.invariance.holds
    assert found.invariance.difference > 1


def test_an_original_whose_score_is_not_a_number_is_refused() -> None:
    rows = [replace(batch, labels=np.full((batch.rows, 2), np.nan)) for batch in batches()]
    with pytest.raises(VerifyFailed, match="the original's mse is not a number"):
        verified(engine(identity), judge("1%", "mse"), rows)


def test_a_candidate_whose_score_is_not_a_number_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(outputs, labels):\n    return (outputs['y'][:, 0] - 3) ** 0.5\n")
    own = metric_from_name(f"{tmp_path / 'own.py'}:score", Y, has_labels=False)
    rows = [Batch({"x": np.full((40, 2), 5, np.float32)}, None, 40)]
    with np.errstate(invalid="ignore"):
        found = verified(engine(lambda x: x - 4), Judge(own, tolerance_from_text("1%"), False, 0), rows)
    assert (found.is_accepted, found.reason) == (False, "its score is not a number on some rows")


def test_the_worst_row_and_the_largest_difference_of_each_output_are_kept() -> None:
    def bends(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(x[:, :1] == 150, x + np.float32(0.25), x + np.float32(0.125))

    found = verified(engine(bends), judge("1%"))
    assert found.worst is not None
    assert (found.worst.row, found.worst.output, found.worst.difference) == (150, "y", 0.25)
    assert (found.worst.source, found.worst.built) == ((150.0, 151.0), (150.25, 151.25))
    assert found.output_difference == {"y": 0.25}


def test_outputs_that_are_not_finite_are_rejected() -> None:
    found = verified(engine(lambda x: np.where(x > 190, np.nan, x)), judge("100%"))
    assert not found.is_accepted
    assert "not finite where" in found.reason


def test_an_engine_that_fails_gets_a_verdict_too() -> None:
    broken = engine(identity)
    broken.failures.append(EngineFailed("no kernel for this"))
    found = verified(broken, judge("1%"))
    assert (found.is_accepted, found.has_failed, found.reason) == (False, True, "no kernel for this")


@pytest.mark.parametrize(
    ("precision", "rows", "is_accepted"),
    [
        *((precision, 29, False) for precision in ("fp16", "bf16", "int8", "int8_dynamic", "int4")),
        ("int8", 30, True),
        ("fp32", 3, True),
    ],
)
def test_few_rows_cannot_judge_a_lower_precision(precision: str, rows: int, is_accepted: bool) -> None:
    x = np.concatenate([batch.feeds["x"] for batch in batches()])[:rows]
    few = [Batch({"x": x}, np.ones(rows, np.int64), rows)]
    found = verified(engine(identity), judge("1%"), few, precision=precision)
    assert found.is_accepted is is_accepted
    assert is_accepted or "29 validation rows cannot judge" in found.reason
