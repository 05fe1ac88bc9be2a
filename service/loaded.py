"""What a loader hands over to be served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.engine import Engine
from enginehouse.evidence import EngineRecord
from enginehouse.proto.model_config_pb2 import ModelConfig


@dataclass(slots=True, frozen=True)
class LoadedVersion:
    """What a loader hands over: a complete configuration and one engine for each instance.

    Attributes:
        directory: where the version's files lie; the model's own files lie in its parent.
        degraded: why this is not what was published; empty if all is well.
        note: which engines of the version cannot run here, and why; empty if all can.
        records: of the engine files that serve, more than one where instances run on two kinds of device; none
            without evidence.
        labels: by the name of an output, what its classes are called, in order.
        calibrated: lowest and highest value of each input that INT8 was calibrated on; empty for other engines.
    """

    config: ModelConfig
    version: int
    directory: Path
    engines: Sequence[Engine]
    load_seconds: float
    degraded: str = ""
    note: str = ""
    records: Sequence[EngineRecord] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibrated: Mapping[str, tuple[float, float]] = field(default_factory=dict)
