"""What the optimizer proved about a version, and which engines lie in it: `evidence.json`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from enginehouse.errors import CorruptVersion
from enginehouse.hardware import Hardware

SCHEMA_VERSION = 1
EVIDENCE_FILE = "evidence.json"
GOLDEN_FILE = "golden.npz"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Record):
    """The original model: never changed, always the reference."""

    file: str
    format: str
    sha256: str
    size_bytes: int


class PassRecord(_Record):
    """What one rewrite did. A pass that changed the outputs is dropped, and says so here."""

    name: str
    outcome: Literal["kept", "unchanged", "dropped"]
    nodes_before: int
    nodes_after: int
    detail: str = ""


class LatencyPoint(_Record):
    """One batch size, measured in rounds interleaved with the source."""

    batch: int
    median_ms: float
    p99_ms: float
    source_median_ms: float
    rounds: int


class Speedup(_Record):
    """Source time over candidate time (geometric mean over the batch sizes); the bound is one-sided at 95 %."""

    median: float
    lower_95: float


class MetricRecord(_Record):
    """A candidate against the original, paired row by row on the validation split."""

    name: str
    rows: int
    source: float
    candidate: float
    drop: float
    drop_upper_95: float
    p_value: float


class CandidateRecord(_Record):
    """One engine that was tried, and what became of it; one that was declined was never made, so it has no size.

    The source is in the list too: its reason is that it is the reference.
    """

    name: str
    precision: str
    size_bytes: int | None = None
    metric: MetricRecord | None = None
    max_abs_difference: float | None = None
    mean_abs_difference: float | None = None
    batch_invariant: bool | None = None
    batch_difference: float | None = None
    latency: tuple[LatencyPoint, ...] = ()
    speedup: Speedup | None = None
    verdict: Literal["chosen", "accepted", "rejected", "failed", "declined"]
    reason: str


class TestScore(_Record):
    """The test split, scored once, after the choice."""

    __test__ = False  # not a test class, whatever pytest may think

    metric: str
    rows: int
    source: float
    chosen: float


class EngineRecord(_Record):
    """One engine file of the version."""

    file: str
    platform: str
    provider: str
    precision: str
    role: Literal["chosen", "fallback"]


class Golden(_Record):
    """How near an engine must come to `golden.npz` before a version is ready.

    `original` compares with the original model's outputs, `built` with what the built engine gave on the machine
    that built it. An element passes when |difference| <= atol + rtol * |expected|.
    """

    rows: int
    synthetic: bool
    original_atol: float
    original_rtol: float
    built_atol: float
    built_rtol: float


class Evidence(_Record):
    """Everything that is known about a published version."""

    schema_version: Literal[1]
    model: str
    version: int
    created_at: str
    source: Source
    recipe: dict[str, Any]
    passes: tuple[PassRecord, ...]
    candidates: tuple[CandidateRecord, ...]
    chosen: str
    reason: str
    test: TestScore | None
    engines: tuple[EngineRecord, ...]
    golden: Golden
    threads: int
    hardware: Hardware
    libraries: dict[str, str]
    files: dict[str, str]

    def engine_file(self, role: Literal["chosen", "fallback"]) -> EngineRecord:
        """Look up the engine that plays a role; raises `CorruptVersion` if the evidence names none."""
        for record in self.engines:
            if record.role == role:
                return record
        raise CorruptVersion(f"evidence of {self.model} version {self.version} names no {role} engine.")


def read_evidence(version_directory: Path) -> Evidence | None:
    """Read a version's evidence; None for a version that was not published by the optimizer.

    Raises:
        CorruptVersion: the file is there and cannot be understood.
    """
    path = version_directory / EVIDENCE_FILE
    if not path.exists():
        return None
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as problem:
        raise CorruptVersion(
            f"{path} is not evidence of schema version {SCHEMA_VERSION}: {problem}. Build the version again."
        ) from problem


def write_evidence(evidence: Evidence, version_directory: Path) -> None:
    """Write `evidence.json` into a version directory that is still being made."""
    (version_directory / EVIDENCE_FILE).write_text(evidence.model_dump_json(indent=2) + "\n")
