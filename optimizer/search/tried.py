"""What became of one trial, as far as the search and its cache know it."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict

from enginehouse.evidence import CandidateRecord, EngineProof, WorstSample
from optimizer.trial import Trial

SOURCE = "source"


class Tried(BaseModel):
    """One trial after it was made, verified and measured.

    Attributes:
        trial: what was made.
        record: the verdict on it, and the figures it rests on.
        proof: what the engine says of itself; None where it could not be opened.
        worst: the validation row that it answers least like the original.
        output_difference: the largest difference of each output, on the validation rows.
        ranges: of each tensor in static INT8: lowest, highest, and the calibrator that chose them.
        calibration: rows that were read, rows that were there, and whether the ranges had converged.
        repairs: what each repair says it did.
        kept: layers that were to be FP16 or BF16 and stay FP32, by name, and why.
        file: the engine file; empty for a trial that was declined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: Trial
    record: CandidateRecord
    proof: EngineProof | None = None
    worst: WorstSample | None = None
    output_difference: dict[str, float] = {}
    ranges: dict[str, tuple[float, float, str]] = {}
    calibration: tuple[int, int, bool] | None = None
    repairs: dict[str, str] = {}
    kept: dict[str, str] = {}
    file: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.record.verdict == "accepted"

    @property
    def speed(self) -> float:
        """Source time over engine time, measured side by side; 0 where it was not."""
        return self.record.quick_speedup or 0.0

    @property
    def drop(self) -> float:
        """How much of the metric it loses; without a metric, how far its outputs are off."""
        if self.record.metric is not None:
            return self.record.metric.drop
        return float("inf") if self.record.mean_abs_difference is None else self.record.mean_abs_difference


class RunsTrials(Protocol):
    """What the ladder and the layer search need: each trial is run once and remembered."""

    def run(self, trial: Trial, stage: str) -> Tried: ...
