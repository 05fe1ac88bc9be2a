"""One real build of the smallest subject, and one that is refused; both made once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.built import Built, build_subject
from benchmarks.subjects import subject_named
from enginehouse.evidence import CandidateRecord, LatencyPoint


@pytest.fixture(scope="session")
def mlp() -> Built:
    subject = replace(subject_named("mlp", Path()), benchmark_seconds=0.1, max_batch_size=8)
    # By throughput: in so short a measurement some single batch size may look slower than the source.
    return build_subject(subject, engine="onnxruntime", precision="fp32", objective="throughput")


@pytest.fixture(scope="session")
def refused() -> Built:
    subject = replace(subject_named("mlp", Path()), benchmark_seconds=0.02, max_batch_size=8)
    return build_subject(subject, engine="onnxruntime", precision="bf16")


@pytest.fixture
def measured(mlp: Built) -> Callable[..., Built]:
    """The build with another chosen candidate: its latencies in milliseconds, each beside 1 ms of the source."""

    def with_candidate(latencies: dict[int, float], **fields: object) -> Built:
        assert mlp.evidence is not None
        points = tuple(
            LatencyPoint(batch=batch, median_ms=median, p99_ms=median, source_median_ms=1.0, rounds=9)
            for batch, median in latencies.items()
        )
        facts = {"name": "planted", "stage": "recipe", "verdict": "chosen", "latency": points, "metric": None, **fields}
        record = mlp.evidence.candidates[1].model_copy(update=facts)
        assert isinstance(record, CandidateRecord)
        evidence = mlp.evidence.model_copy(
            update={"chosen": "planted", "candidates": (*mlp.evidence.candidates, record)}
        )
        return replace(mlp, evidence=evidence)

    return with_candidate
