from typing import Any

from enginehouse.evidence import CandidateRecord
from optimizer.finalists import pick_finalists
from optimizer.search.tried import Tried
from optimizer.trial import Trial


def tried(name: str, speed: float, verdict: str = "accepted", **trial: Any) -> Tried:
    record = CandidateRecord.model_validate(
        {"name": name, "precision": "fp32", "quick_speedup": speed, "verdict": verdict, "reason": ""}
    )
    return Tried(trial=Trial.model_validate(trial), record=record)


def names(*trials: Tried) -> list[str]:
    return [one.record.name for one in pick_finalists(trials, lambda one: one.speed)]


def test_the_rewritten_graph_and_the_best_of_the_search_are_finalists() -> None:
    many = [tried(f"int8 {number}", 2.0 + number, precision="int8", layers={"a": "fp32"}) for number in range(8)]
    found = names(tried("fp32", 1.0), *many)
    assert found[0] == "fp32"
    assert set(found[1:]) == {"int8 7", "int8 6", "int8 5", "int8 4", "int8 3"}


def test_what_was_rejected_or_failed_is_none() -> None:
    assert names(tried("fp32", 1.0), tried("int8", 9.0, "rejected"), tried("int4", 9.0, "failed")) == ["fp32"]


def test_each_engine_has_its_best_among_them() -> None:
    many = [tried(f"int8 {number}", 5.0, precision="int8", layers={str(number): "fp32"}) for number in range(6)]
    assert "openvino" in names(*many, tried("openvino", 0.5, engine="openvino"))


def test_none_is_measured_twice() -> None:
    found = names(tried("fp32", 3.0), tried("int8", 2.0, precision="int8"))
    assert sorted(found) == ["fp32", "int8"]
