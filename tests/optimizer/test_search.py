from typing import Any

import pytest

from enginehouse.errors import VerifyFailed
from enginehouse.evidence import CandidateRecord, Speedup
from optimizer.search import choose

SOURCE = CandidateRecord(name="source", precision="fp32", size_bytes=10, verdict="accepted", reason="the original")


def record(name: str, median: float = 1.0, lower: float | None = None, **fields: Any) -> CandidateRecord:
    values: dict[str, Any] = {
        "name": name,
        "precision": name,
        "size_bytes": 5,
        "mean_abs_difference": {"fp32": 0.0, "int8": 0.1}.get(name),
        "speedup": Speedup(median=median, lower_95=median - 0.01 if lower is None else lower),
        "verdict": "accepted",
        "reason": "",
        **fields,
    }
    return CandidateRecord(**values)


def verdicts(*candidates: CandidateRecord) -> tuple[str, dict[str, str], dict[str, str]]:
    choice = choose([SOURCE, *candidates])
    return (
        choice.chosen,
        {found.name: found.verdict for found in choice.candidates},
        {found.name: found.reason for found in choice.candidates},
    )


def test_the_fastest_inside_the_tolerance_wins() -> None:
    chosen, verdict, reason = verdicts(record("fp32", 1.2), record("int8", 2.0))
    assert chosen == "int8"
    assert verdict == {"source": "accepted", "fp32": "accepted", "int8": "chosen"}
    assert reason["int8"] == "fastest: 2.00x (≥ 1.99x)"
    assert reason["fp32"] == "int8 is faster: 1.20x (≥ 1.19x)"


def test_a_rejected_candidate_is_never_chosen_however_fast() -> None:
    rejected = record("int8", 9.0, verdict="rejected", reason="top1 drops by 3%, 1% is allowed")
    chosen, verdict, reason = verdicts(record("fp32", 1.2), rejected)
    assert chosen == "fp32"
    assert (verdict["int8"], reason["int8"]) == ("rejected", "top1 drops by 3%, 1% is allowed")


@pytest.mark.parametrize("lower", [0.97, 1.05])
def test_the_source_is_published_when_the_lower_bound_is_not_above_the_least(lower: float) -> None:
    chosen, verdict, reason = verdicts(record("fp32", 1.08, lower))
    assert chosen == "source"
    assert verdict == {"source": "chosen", "fp32": "accepted"}
    assert reason["fp32"].startswith("not clearly faster: 1.08x")


def test_a_bound_just_above_the_least_is_enough() -> None:
    assert verdicts(record("fp32", 1.08, 1.0501))[0] == "fp32"


def test_precision_is_not_given_up_for_a_speed_that_another_has_too() -> None:
    choice = choose([SOURCE, record("fp32", 1.31), record("int8", 1.33)])
    reason = {found.name: found.reason for found in choice.candidates}
    assert choice.chosen == "fp32"
    assert choice.reason.endswith("within 5 % of int8 (1.33x), and nearer to the original")
    assert reason["fp32"] == "as fast, and nearest: 1.31x (≥ 1.30x)"
    assert reason["int8"].startswith("fp32 is as fast, and nearer: 1.33x")


def test_the_reason_says_why_the_source_stays() -> None:
    choice = choose([SOURCE, record("fp32", 1.02), record("int8", 0.9)])
    assert "nothing inside the tolerance is clearly faster" in choice.reason
    assert "the nearest is fp32 with 1.02x (≥ 1.01x)" in choice.reason


def test_a_tolerance_that_nothing_meets_publishes_nothing() -> None:
    rejected = record("fp32", 2.0, verdict="rejected", reason="top1 drops by 3.00%, 1% is allowed")
    declined = record("int8", speedup=None, verdict="declined", reason="give --data")
    with pytest.raises(VerifyFailed, match=r"fp32: top1 drops by 3\.00%, 1% is allowed; int8: give --data"):
        choose([SOURCE, rejected, declined])


def test_the_choice_does_not_depend_on_the_order() -> None:
    candidates = [SOURCE, record("fp32", 1.2), record("int8", 2.0)]
    assert choose(candidates).chosen == choose(candidates[::-1]).chosen == "int8"
