"""What an INT8 engine would cut off is seen, at a bounded cost, and forgotten in time."""

from typing import Any

import numpy as np
import pytest

from enginehouse.evidence import CalibrationRecord
from enginehouse.model_config import config_from_text
from service.request import InferRequest
from service.scheduling.computation import Answer
from service.scheduling.queue import Pending
from service.statistics.calibration_drift import (
    HALF_LIFE_SECONDS,
    LOOKS_AT_ONCE,
    LOOKS_PER_SECOND,
    VALUES_PER_LOOK,
    CalibrationDrift,
    WatchedComputation,
    calibrated_inputs,
)
from tests.enginehouse.conftest import make_evidence, make_record
from tests.service.conftest import make_request, tensor

CONFIG = config_from_text("input { name: 'x' data_type: TYPE_FP32 dims: 2 }", "m")


class Hands:
    """A clock's, moved by the test."""

    def __init__(self) -> None:
        self.seconds = 5.0

    def __call__(self) -> float:
        return self.seconds


def request_of(array: Any, dtype: str = "FP32") -> InferRequest:
    return InferRequest("m", "", (tensor(np.asarray(array), dtype=dtype),))


def calibration(**ranges: tuple[float, float]) -> CalibrationRecord:
    return CalibrationRecord(
        split="calibration",
        rows=1,
        rows_available=1,
        has_converged=True,
        is_random=False,
        calibrators={},
        ranges=ranges,
    )


def test_only_inputs_of_an_engine_in_static_int8_have_ranges() -> None:
    evidence = make_evidence({}, calibration=calibration(x=(0.0, 1.0), hidden=(-1.0, 1.0)))
    assert calibrated_inputs(evidence, [make_record(precision="int8")], CONFIG) == {"x": (0.0, 1.0)}
    for precision in ("fp32", "int8_dynamic", "int4"):
        assert calibrated_inputs(evidence, [make_record(precision=precision)], CONFIG) == {}
    assert calibrated_inputs(make_evidence({}), [make_record(precision="int8")], CONFIG) == {}


def test_values_beyond_the_range_count_and_those_within_half_a_step_do_not() -> None:
    drift = CalibrationDrift({"x": (0.0, 255.0)})
    assert drift.shares() == {"x": 0.0}
    drift.look([request_of(np.array([[0, 255, -0.49, 255.49]], np.float32))])
    assert drift.shares() == {"x": 0.0}
    drift.look([request_of(np.array([[-0.51, 255.51, np.nan, np.inf]], np.float32))])
    assert drift.shares() == {"x": pytest.approx(0.5, abs=1e-4)}


@pytest.mark.parametrize(("dtype", "kind"), [("UINT8", np.uint8), ("FP16", np.float16), ("INT64", np.int64)])
def test_inputs_of_other_types_are_looked_at_too(dtype: str, kind: Any) -> None:
    drift = CalibrationDrift({"x": (0.0, 10.0)})
    drift.look([request_of(np.array([[1, 2, 3, 200]], kind), dtype)])
    assert drift.shares() == {"x": 0.25}


def test_inputs_without_a_range_are_passed_over_and_an_empty_one_hurts_nobody() -> None:
    drift = CalibrationDrift({"x": (0.0, 1.0)})
    drift.look([InferRequest("m", "", (tensor(np.full((1, 2), 9, np.float32), "other"),))])
    drift.look([request_of(np.empty((1, 0), np.float32))])
    drift.look([])
    assert drift.shares() == {"x": 0.0}


def test_a_large_input_is_sampled_fairly() -> None:
    drift = CalibrationDrift({"x": (0.0, 1.0)}, Hands())
    image = np.zeros((1, 512, 512), np.float32)
    image[:, :, ::4] = 9
    for _ in range(LOOKS_AT_ONCE):
        drift.look([request_of(image)])
    assert drift._seen["x"] == LOOKS_AT_ONCE * VALUES_PER_LOOK
    assert drift.shares()["x"] == pytest.approx(0.25, abs=0.02)


def test_however_many_come_so_many_are_looked_at() -> None:
    now = Hands()
    drift = CalibrationDrift({"x": (0.0, 1.0)}, now)
    many = [make_request([0.5]) for _ in range(1000)]
    drift.look(many)
    assert drift._seen["x"] == LOOKS_AT_ONCE * 2
    drift.look(many)
    assert drift._seen["x"] == LOOKS_AT_ONCE * 2
    for _ in range(1000):
        now.seconds += 1 / LOOKS_PER_SECOND / 10
        drift.look(many)
    # A tenth of a second per hundred of them; what the old ones lost since is less than one value.
    assert drift._seen["x"] == pytest.approx((LOOKS_AT_ONCE + 100) * 2, abs=2)


def test_what_was_outside_long_ago_is_forgotten() -> None:
    now = Hands()
    drift = CalibrationDrift({"x": (0.0, 1.0)}, now)
    drift.look([make_request([9.0])])
    now.seconds += HALF_LIFE_SECONDS
    assert drift.shares() == {"x": 1.0}
    drift.look([make_request([0.5])])
    assert drift.shares()["x"] == pytest.approx(1 / 3)
    now.seconds += 20 * HALF_LIFE_SECONDS
    drift.look([make_request([0.5])])
    assert drift.shares()["x"] < 1e-5


class Counting:
    """A computation that answers with nothing."""

    def __init__(self) -> None:
        self.may_run_inline = True
        self.computed: list[int] = []
        self.is_closed = False

    def compute(self, pendings: Any) -> list[Answer]:
        self.computed.append(len(pendings))
        return [Answer() for _ in pendings]

    def close(self) -> None:
        self.is_closed = True


def test_a_watched_computation_computes_as_it_did() -> None:
    inner, drift = Counting(), CalibrationDrift({"x": (0.0, 1.0)})
    watched = WatchedComputation(inner, drift)
    assert watched.may_run_inline
    answers = watched.compute([Pending(make_request([9.0]), lambda _: None, 1, None)] * 3)
    assert (len(answers), inner.computed) == (3, [3])
    assert drift.shares() == {"x": 1.0}
    watched.close()
    assert inner.is_closed
