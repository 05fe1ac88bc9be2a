"""What the optimizer proved about a version, and which engines lie in it: `evidence.json`."""

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from enginehouse.errors import CorruptVersion
from enginehouse.hardware import Hardware

SCHEMA_VERSION: Final = 2
EVIDENCE_FILE = "evidence.json"
GOLDEN_FILE = "golden.npz"


class _Record(BaseModel):
    # JSON has no NaN; as `null` it could not be read back into a number.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


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

    Attributes:
        stage: the step of the search that asked for it: `source`, `recipe` (whole model), `repair`, `layers`,
            `requantize`.
        trial: everything that decides its bytes; empty for the source.
        memory_bytes: how much a process grows by loading and running it; None where it was not measured.
        latency: the curve; only those that reached the final, interleaved benchmark have one.
        quick_speedup: source time over candidate time at the serving batch, measured side by side in the search.
    """

    name: str
    precision: str
    engine: str = "onnxruntime"
    stage: str = "recipe"
    trial: dict[str, Any] = {}
    size_bytes: int | None = None
    memory_bytes: int | None = None
    quick_speedup: float | None = None
    metric: MetricRecord | None = None
    max_abs_difference: float | None = None
    mean_abs_difference: float | None = None
    batch_invariant: bool | None = None
    batch_difference: float | None = None
    latency: tuple[LatencyPoint, ...] = ()
    speedup: Speedup | None = None
    verdict: Literal["chosen", "accepted", "rejected", "failed", "declined"]
    reason: str


class LayerRecord(_Record):
    """One layer of the published engine.

    Attributes:
        precision: what it computes in.
        sensitivity: squared error of the model's outputs over their squared length, when it alone is lowered.
        time_ms: in the source's precision, at the serving batch.
        saved_ms: how much of it the lowered precision saves.
        reason: why it has its precision.
    """

    name: str
    operator: str
    precision: str
    sensitivity: float | None = None
    time_ms: float | None = None
    saved_ms: float | None = None
    reason: str = ""


class RepairRecord(_Record):
    """One rung of the repair ladder: what the drop of the metric was without it and is with it."""

    name: str
    drop_before: float | None
    drop_after: float | None
    detail: str = ""


class CalibrationRecord(_Record):
    """What the ranges of static INT8 come from, and what is to be said of the rows that judged every candidate.

    With 0 rows the published engine has no ranges.

    Attributes:
        is_random: made-up rows; nothing that was measured on them says how real rows fare.
        calibrators: how many tensors each calibrator was chosen for.
        ranges: lowest and highest value of each observed tensor, as calibrated.
        warnings: what the lint found in the rows.
    """

    split: str
    rows: int
    rows_available: int
    has_converged: bool
    is_random: bool
    calibrators: dict[str, int]
    ranges: dict[str, tuple[float, float]]
    warnings: tuple[str, ...] = ()


class WorstSample(_Record):
    """The validation row that the published engine answers least like the original: its first values, side by side."""

    row: int
    output: str
    difference: float
    source: tuple[float, ...]
    built: tuple[float, ...]


class TestScore(_Record):
    """The test split, scored once, after the choice."""

    __test__ = False  # not a test class, whatever pytest may think

    metric: str
    rows: int
    source: float
    chosen: float


class EngineLayer(_Record):
    """One layer as the engine says it runs: its own name and type, its precision, and what it was fused from."""

    name: str
    operator: str
    precision: str
    time_ms: float | None = None
    source_nodes: tuple[str, ...] = ()


class EngineProof(_Record):
    """What an engine says of itself after it was built: read back, never assumed.

    Attributes:
        layers: every layer that it runs.
        layer_share: share of the computing layers (Conv, Gemm, MatMul and their kin) by precision.
        time_share: share of the measured time by precision; None where the engine cannot be run here.
        kept: layers that compute in a higher precision than was asked, and why.
    """

    layers: tuple[EngineLayer, ...]
    layer_share: dict[str, float]
    time_share: dict[str, float] | None = None
    kept: dict[str, str] = {}


class TargetRecord(_Record):
    """What an engine needs of a machine.

    Attributes:
        name: `host` or what `--target` said.
        isa: instruction sets without which it would be slow or wrong.
        compute_capability: of the GPU, such as `8.9`; None for a CPU.
        libraries: versions that it cannot be opened without, by distribution.
        is_measured: whether it was timed and verified on such a machine.
    """

    name: str = "host"
    isa: tuple[str, ...] = ()
    compute_capability: str | None = None
    libraries: dict[str, str] = {}
    is_measured: bool = True


class Closeness(_Record):
    """An element passes when |difference| <= atol + rtol * |expected|."""

    atol: float
    rtol: float


class GoldenTolerance(_Record):
    """How near one engine must come to the golden samples, output by output.

    `original` compares with the original model's outputs, `built` with what this engine gave on the machine that
    built it; a plan that could not be run there has no `built`.
    """

    original: dict[str, Closeness]
    built: dict[str, Closeness] = {}


class EngineRecord(_Record):
    """One engine file of the version.

    Attributes:
        role: `chosen` is what clients of any server get from `model.onnx`, `variant` another engine for the same
            answers, `fallback` runs anywhere.
        settings: what its library must be told, such as OpenVINO's precision hint.
        speedup: source time over engine time where it was built; None where it was not measured.
    """

    file: str
    platform: str
    provider: str
    precision: str
    role: Literal["chosen", "variant", "fallback"]
    candidate: str = ""
    settings: dict[str, str] = {}
    target: TargetRecord = TargetRecord()
    speedup: float | None = None
    proof: EngineProof | None = None
    tolerance: GoldenTolerance


class Golden(_Record):
    """What lies in `golden.npz`: `input/<name>`, `original/<output>`, and per engine `built/<file>/<output>`."""

    rows: int
    synthetic: bool


class Evidence(_Record):
    """Everything that is known about a published version."""

    schema_version: Literal[2]
    model: str
    version: int
    created_at: str
    source: Source
    recipe: dict[str, Any]
    data_sha256: str | None = None
    passes: tuple[PassRecord, ...]
    candidates: tuple[CandidateRecord, ...]
    chosen: str
    reason: str
    test: TestScore | None
    engines: tuple[EngineRecord, ...]
    golden: Golden
    layers: tuple[LayerRecord, ...] = ()
    repairs: tuple[RepairRecord, ...] = ()
    calibration: CalibrationRecord | None = None
    worst: WorstSample | None = None
    serving_batch: int | None = None
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
        text = path.read_bytes()
        _refuse_another_schema(path, text)
        return Evidence.model_validate_json(text)
    except (ValidationError, OSError) as problem:
        raise CorruptVersion(
            f"{path} is not evidence of schema version {SCHEMA_VERSION}: {problem}. Build the version again."
        ) from problem


def _refuse_another_schema(path: Path, text: bytes) -> None:
    """A version that another release built is not damaged, and is told so."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return
    found = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(found, int) and found != SCHEMA_VERSION:
        raise CorruptVersion(
            f"{path} is evidence of schema version {found}, and this release reads version {SCHEMA_VERSION}. "
            "Build the version again with `python -m optimizer build`."
        )


def write_evidence(evidence: Evidence, version_directory: Path) -> None:
    """Write `evidence.json` into a version directory that is still being made."""
    (version_directory / EVIDENCE_FILE).write_text(evidence.model_dump_json(indent=2) + "\n")
