"""Build one subject as `python -m optimizer build` does, in this process, and keep what came of it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console

from benchmarks.subjects import Subject
from enginehouse.errors import Error
from enginehouse.evidence import CandidateRecord, Evidence, LatencyPoint
from enginehouse.hardware import this_hardware
from optimizer.pipeline import build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps

SOURCE = "source"
_ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gave: its evidence, or the sentence that refused it."""

    subject: Subject
    evidence: Evidence | None
    refusal: str
    seconds: float

    @property
    def chosen(self) -> CandidateRecord | None:
        """The published engine's record."""
        if self.evidence is None:
            return None
        return next(record for record in self.evidence.candidates if record.name == self.evidence.chosen)


def build_subject(subject: Subject, **options: Any) -> Built:
    """Build into a repository that is thrown away, with no trial kept from another build."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_from_options(
            model=subject.model,
            name=subject.name,
            repository=Path(folder),
            data=str(subject.data),
            metric=subject.metric,
            max_drop=subject.max_drop,
            max_batch_size=subject.max_batch_size,
            benchmark_seconds=subject.benchmark_seconds,
            **options,
        )
        started = monotonic()
        try:
            evidence = build(recipe, Steps(Console(file=StringIO()))).evidence
        except Error as problem:
            return Built(subject, None, str(problem), monotonic() - started)
        return Built(subject, evidence, "", monotonic() - started)


def point(record: CandidateRecord, batch: int) -> LatencyPoint | None:
    """What was measured at one batch size, with the source beside it."""
    return next((found for found in record.latency if found.batch == batch), None)


def caption(built: Sequence[Built]) -> str:
    """Where and with what a table was measured."""
    made = [one.evidence for one in built if one.evidence is not None]
    lines = {
        f"{found.hardware}; {found.threads} threads; {_libraries(found)}; {found.created_at[:10]}" for found in made
    }
    return "; ".join(sorted(lines)) or str(this_hardware())


def _libraries(evidence: Evidence) -> str:
    return ", ".join(f"{name} {version}" for name, version in evidence.libraries.items() if name in _ENGINES)
