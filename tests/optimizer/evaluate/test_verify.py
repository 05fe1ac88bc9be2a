from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed, VerifyFailed
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import Tensors, TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.metrics import MetricName, metric_from_name
from optimizer.evaluate.tolerance import tolerance_from_text
from optimizer.evaluate.verify import Judge, Verification, verify

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


def judge(max_drop: str, metric: MetricName | None = "top1", is_batched: bool = True) -> Judge:
    chosen = metric_from_name(metric, Y, has_labels=metric != "agreement") if metric else None
    return Judge(chosen, tolerance_from_text(max_drop), is_batched, seed=0)


def verified(candidate: FakeEngine, by: Judge, rows: Sequence[Batch] | None = None) -> Verification:
    found = verify(engine(identity), {"candidate": (candidate, "fp32")}, rows or batches(), by)
    return found["candidate"]


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
        verify(mixes, {"candidate": (mixes, "fp32")}, batches(), judge("1%"))


def test_outputs_that_are_not_finite_are_rejected() -> None:
    found = verified(engine(lambda x: np.where(x > 190, np.nan, x)), judge("100%"))
    assert not found.is_accepted
    assert "not finite where" in found.reason


def test_an_engine_that_fails_is_no_reason_to_stop() -> None:
    broken = engine(identity)
    broken.failures.append(EngineFailed("no kernel for this"))
    found = verify(
        engine(identity), {"broken": (broken, "fp32"), "sound": (engine(identity), "fp32")}, batches(), judge("1%")
    )
    assert (found["broken"].has_failed, found["broken"].reason) == (True, "no kernel for this")
    assert found["sound"].is_accepted


def test_the_original_runs_once_per_batch() -> None:
    source = engine(identity)
    candidates = {name: (engine(identity), "fp32") for name in "abc"}
    verify(source, candidates, batches(), judge("1%", is_batched=False))
    assert len(source.runs) == len(batches())


@pytest.mark.parametrize(
    ("precision", "rows", "is_accepted"), [("int8", 29, False), ("int8", 30, True), ("fp32", 3, True)]
)
def test_few_rows_cannot_judge_a_lower_precision(precision: str, rows: int, is_accepted: bool) -> None:
    whole = batches()
    x = np.concatenate([batch.feeds["x"] for batch in whole])[:rows]
    few = [Batch({"x": x}, np.ones(rows, np.int64), rows)]
    found = verify(engine(identity), {"candidate": (engine(identity), precision)}, few, judge("1%"))["candidate"]
    assert found.is_accepted is is_accepted
    assert is_accepted or "29 validation rows cannot judge" in found.reason
