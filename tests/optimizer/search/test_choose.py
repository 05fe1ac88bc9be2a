from typing import Any

import pytest

from enginehouse.errors import VerifyFailed
from enginehouse.evidence import CandidateRecord, LatencyPoint, Speedup
from optimizer.search.choose import Choice, Rule, choose

SOURCE = CandidateRecord(
    name="source", precision="fp32", size_bytes=10, memory_bytes=100, verdict="accepted", reason="the original"
)
AUTO = Rule("latency", "auto", "auto", is_timed=True)


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


def chosen_from(*candidates: CandidateRecord, rule: Rule = AUTO) -> Choice:
    return choose([SOURCE, *candidates], rule)


def verdicts(*candidates: CandidateRecord) -> tuple[str, dict[str, str], dict[str, str]]:
    choice = chosen_from(*candidates)
    return (
        choice.chosen,
        {found.name: found.verdict for found in choice.candidates},
        {found.name: found.reason for found in choice.candidates},
    )


def test_the_fastest_inside_the_tolerance_wins() -> None:
    chosen, verdict, reason = verdicts(record("fp32", 1.2), record("int8", 2.0))
    assert chosen == "int8"
    assert verdict == {"source": "accepted", "fp32": "accepted", "int8": "chosen"}
    assert reason["int8"] == "2.00x (≥ 1.99x)"
    assert reason["fp32"] == "int8 is better: 1.20x (≥ 1.19x)"


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
    assert reason["fp32"].startswith("not clearly better: 1.08x")


def test_a_bound_just_above_the_least_is_enough() -> None:
    assert verdicts(record("fp32", 1.08, 1.0501))[0] == "fp32"


def test_precision_is_not_given_up_for_a_speed_that_another_has_too() -> None:
    choice = chosen_from(record("fp32", 1.31), record("int8", 1.33))
    reason = {found.name: found.reason for found in choice.candidates}
    assert choice.chosen == "fp32"
    assert choice.reason.endswith("within 5 % of int8 (1.33x), and nearer to the original")
    assert reason["fp32"] == "as good, and nearest: 1.31x (≥ 1.30x)"
    assert reason["int8"].startswith("fp32 is as good, and nearer: 1.33x")


def test_the_reason_says_why_the_source_stays() -> None:
    choice = chosen_from(record("fp32", 1.02), record("int8", 0.9))
    assert choice.reason == "the original: nothing is clearly better (best is fp32, 1.02x (≥ 1.01x))"


def test_a_tolerance_that_nothing_meets_publishes_nothing() -> None:
    rejected = record("fp32", 2.0, verdict="rejected", reason="top1 drops by 3.00%, 1% is allowed")
    declined = record("int8", speedup=None, verdict="declined", reason="give --data")
    with pytest.raises(VerifyFailed, match=r"fp32: top1 drops by 3\.00%, 1% is allowed; int8: give --data"):
        chosen_from(rejected, declined)


def test_the_choice_does_not_depend_on_the_order() -> None:
    candidates = [SOURCE, record("fp32", 1.2), record("int8", 2.0)]
    assert choose(candidates, AUTO).chosen == choose(candidates[::-1], AUTO).chosen == "int8"


def other(name: str, median: float, **fields: Any) -> CandidateRecord:
    return record(name, median, engine="openvino", mean_abs_difference=0.05, **fields)


def test_another_engine_must_win_by_more_than_a_tenth() -> None:
    near = chosen_from(record("int8", 2.0), other("openvino int8", 2.15, precision="int8"))
    assert (near.chosen, near.portable) == ("int8", "int8")
    assert "10 %" in near.reason
    clear = chosen_from(record("int8", 2.0), other("openvino int8", 2.5, precision="int8"))
    assert (clear.chosen, clear.portable) == ("openvino int8", "int8")


def test_an_engine_that_was_asked_for_needs_no_margin() -> None:
    rule = Rule("latency", "auto", "openvino", is_timed=True)
    choice = chosen_from(record("int8", 2.0), other("openvino int8", 2.1, precision="int8"), rule=rule)
    assert (choice.chosen, choice.portable) == ("openvino int8", "source")


def test_a_precision_that_was_asked_for_is_taken_though_another_is_faster() -> None:
    rule = Rule("latency", "fp32", "auto", is_timed=True)
    assert chosen_from(record("fp32", 1.0), record("int8", 3.0), rule=rule).chosen == "fp32"


def test_a_precision_that_was_asked_for_and_is_slower_than_the_source_is_refused() -> None:
    rule = Rule("latency", "int8", "auto", is_timed=True)
    with pytest.raises(VerifyFailed, match=r"int8 was asked for .*: not clearly better: 0\.70x"):
        chosen_from(record("fp32", 1.2), record("int8", 0.7), rule=rule)


def test_a_precision_that_was_asked_for_and_cannot_be_had_is_refused_with_its_reason() -> None:
    rule = Rule("latency", "bf16", "auto", is_timed=True)
    failed = record("bf16", speedup=None, verdict="failed", reason="0 of 4 layers compute in it")
    with pytest.raises(VerifyFailed, match="bf16 was asked for and cannot be published: bf16: 0 of 4 layers"):
        chosen_from(record("fp32", 1.2), failed, rule=rule)


def curve(*ratios: float) -> dict[str, Any]:
    """Latency at batch 1, 2, 4, … as shares of the source's."""
    points = [
        LatencyPoint(batch=2**position, median_ms=ratio, p99_ms=ratio, source_median_ms=1.0, rounds=8)
        for position, ratio in enumerate(ratios)
    ]
    return {"latency": tuple(points)}


def test_an_engine_that_is_slower_at_one_batch_size_is_not_published() -> None:
    uneven = record("int8", 2.0, **curve(1.2, 0.3, 0.2))
    choice = chosen_from(record("fp32", 1.2, **curve(0.8, 0.8, 0.8)), uneven)
    assert choice.chosen == "fp32"
    reason = {found.name: found.reason for found in choice.candidates}
    assert reason["int8"].startswith("slower than the source at batch 1: ")


def test_only_the_serving_batch_matters_where_one_is_named() -> None:
    rule = Rule("latency", "auto", "auto", is_timed=True, serving_batch=4)
    assert chosen_from(record("int8", 2.0, **curve(1.2, 0.3, 0.2)), rule=rule).chosen == "int8"


def test_dynamic_int8_counts_as_int8() -> None:
    rule = Rule("latency", "int8", "auto", is_timed=True)
    assert chosen_from(record("fp32"), record("int8_dynamic", 1.5), rule=rule).chosen == "int8_dynamic"


def test_the_smallest_wins_where_size_is_the_objective_however_fast_another_is() -> None:
    rule = Rule("size", "auto", "auto", is_timed=True)
    small = record("int4", 0.8, size_bytes=2)
    choice = chosen_from(record("int8", 3.0), small, rule=rule)
    assert choice.chosen == "int4"
    assert "5.00x smaller" in choice.reason


def test_the_least_memory_wins_where_memory_is_the_objective() -> None:
    rule = Rule("memory", "auto", "auto", is_timed=True)
    assert chosen_from(record("fp32", memory_bytes=90), record("int8", memory_bytes=40), rule=rule).chosen == "int8"


def test_a_target_that_is_not_this_machine_is_chosen_for_by_size_and_says_so() -> None:
    rule = Rule("latency", "auto", "auto", is_timed=False)
    choice = chosen_from(record("fp32", speedup=None, size_bytes=9), record("int8", speedup=None), rule=rule)
    assert choice.chosen == "int8"
    assert "not measured on the target" in choice.reason


def test_an_accepted_trial_that_was_no_finalist_says_what_the_search_saw() -> None:
    choice = chosen_from(record("int8", 2.0), record("fp32", speedup=None, quick_speedup=1.1))
    reason = {found.name: found.reason for found in choice.candidates}
    assert reason["fp32"] == "no finalist: 1.10x in the search"
