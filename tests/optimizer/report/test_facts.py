from collections.abc import Callable

import pytest

from enginehouse.evidence import CandidateRecord, Evidence
from optimizer.report.facts import (
    chosen_record,
    drop_limit,
    judged_batches,
    loss,
    mattering_batches,
    milliseconds,
    offers,
    pareto_front,
    source_record,
)

EvidenceMaker = Callable[..., Evidence]


def named(evidence: Evidence, name: str) -> CandidateRecord:
    return next(record for record in evidence.candidates if record.name == name)


def test_single_figures_are_about_the_serving_batch_or_one_and_eight(
    evidence: Evidence, evidence_with: EvidenceMaker
) -> None:
    assert mattering_batches(evidence) == (8,)
    assert mattering_batches(evidence_with(serving_batch=None)) == (1, 8)
    assert mattering_batches(evidence_with(serving_batch=3)) == (1,)


def test_times_are_over_the_batches_that_the_choice_went_by(evidence: Evidence, evidence_with: EvidenceMaker) -> None:
    assert judged_batches(evidence) == (8,)
    assert judged_batches(evidence_with(serving_batch=None)) == (1, 2, 4, 8, 16, 32)


def test_a_finalist_has_its_own_time_and_the_rest_the_share_they_showed(evidence: Evidence) -> None:
    assert milliseconds(evidence, named(evidence, "openvino bf16")) == pytest.approx(2.6)
    quick = evidence.candidates[0].model_copy(update={"name": "quick", "latency": (), "quick_speedup": 4.0})
    assert milliseconds(evidence, quick) == pytest.approx(2.5)
    assert milliseconds(evidence, named(evidence, "int4")) is None


def test_times_over_several_batches_are_their_geometric_mean(evidence_with: EvidenceMaker) -> None:
    evidence = evidence_with(serving_batch=None)
    source = source_record(evidence)
    assert source is not None
    assert milliseconds(evidence, source) == pytest.approx((3 * 4 * 6 * 10 * 18 * 34) ** (1 / 6))


def test_the_source_loses_nothing_and_others_their_drop_or_difference(evidence: Evidence) -> None:
    source, chosen = source_record(evidence), chosen_record(evidence)
    assert source is not None
    assert chosen is not None
    assert (loss(source), loss(chosen)) == (0.0, 0.0058)
    assert loss(chosen.model_copy(update={"metric": None})) == pytest.approx(0.0174)


def test_the_limit_is_in_units_of_the_metric(evidence: Evidence) -> None:
    assert drop_limit(evidence) == pytest.approx(0.01)
    errors = [
        record.model_copy(update={"metric": record.metric.model_copy(update={"name": "mse", "source": 4.0})})
        for record in evidence.candidates
        if record.metric
    ]
    assert drop_limit(evidence.model_copy(update={"candidates": tuple(errors)})) == pytest.approx(0.04)


def test_a_wider_tolerance_buys_the_fastest_candidate_it_lets_in(evidence: Evidence) -> None:
    (offer,) = offers(evidence)
    assert (offer.step, offer.candidate.name) == (0.01, "openvino int8 s8s8")
    assert offer.gain == pytest.approx(0.16 / 0.148)


def test_it_buys_nothing_that_is_slower_or_breaks_another_rule(evidence: Evidence) -> None:
    fast = named(evidence, "openvino int8 s8s8")
    mixes = fast.model_copy(update={"batch_invariant": False})
    slow = named(evidence, "fp32").model_copy(update={"metric": fast.metric, "verdict": "rejected"})
    kept = tuple(record for record in evidence.candidates if record is not fast)
    assert offers(evidence.model_copy(update={"candidates": (*kept, mixes, slow)})) == []


def test_the_front_holds_what_nothing_else_beats_in_both() -> None:
    points = [(3.0, 0.0), (1.0, 0.5), (2.0, 0.1), (2.5, 0.1), (4.0, 0.0), (1.5, 0.6)]
    assert pareto_front(points) == [(1.0, 0.5), (2.0, 0.1), (3.0, 0.0)]
