"""What answers for one version of a model, whatever its kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from enginehouse.evidence import EngineRecord
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.request import Admitted, InferRequest, Settle
from service.statistics.statistics import ModelStatistics


class Served(Protocol):
    """A model with engines of its own, an ensemble of others, and whatever comes. Runs on the thread of the queues.

    Attributes:
        config: complete, defaults filled in.
        version: as the protocol spells it.
        degraded: why this is not what was published; empty if all is well.
        note: which engines of the version cannot run here, and why; empty if all can.
        records: of the engine files that serve.
        labels: by the name of an output, what its classes are called, in order.
    """

    name: str
    version: str
    config: ModelConfig
    statistics: ModelStatistics
    degraded: str
    note: str
    records: Sequence[EngineRecord]
    labels: Mapping[str, Sequence[str]]
    load_seconds: float

    @property
    def absence(self) -> str:
        """Why nothing computes now what is asked, though the version is loaded; empty if something does."""

    @property
    def queue_depth(self) -> int:
        """Requests that wait, not counting those that run."""

    @property
    def time_to_spare(self) -> float:
        """Seconds that one more request may spend before it comes here, and be in time; infinity if nobody counts."""

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        """Admit a request; `settle` is called exactly once, perhaps before this returns; None if it was refused."""

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Refuse what is new, finish what is here, then call back."""

    def abandon(self) -> None:
        """Tell everybody who still waits for an answer that none will come."""

    def close(self) -> None:
        """Give everything back; called from another thread, after `drain`. Blocks, but not for ever."""
