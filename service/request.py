"""A request and its answer as every transport hands them to the core: raw tensor bytes with their specs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from enginehouse.dtype import DType
from enginehouse.errors import Error

Parameter = str | bool | int | float


@dataclass(slots=True, frozen=True)
class WireTensor:
    """One tensor in wire form, see `enginehouse.dtype`."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(slots=True, frozen=True)
class SequencePosition:
    """Where a request stands in a sequence of requests that share a state; ids are whole numbers or text."""

    id: int | str
    is_start: bool = False
    is_end: bool = False


@dataclass(slots=True)
class InferRequest:
    """One call from a client; it may hold several rows.

    Attributes:
        model_version: empty for the newest version that is ready.
        outputs: names of the wanted outputs; empty for all.
        parameters: as the client sent them, without those that have a field of their own here.
        priority: 1 is served first; 0 asks for the model's default.
        sequence: None for a request that stands alone.
        timeout_seconds: how long the client lets it wait in a queue; 0 for as long as the model does.
        deadline: when the answer is of no use any more, in the seconds of `Clock.now`; None for never. The least of
            what the transport was told and of the timeouts of request and model.
        classifications: outputs wanted as their highest classes, and how many of them.
        emit: takes each response of a decoupled model before the last one; None for a caller that takes only one.
        received_at: when the transport had the whole request, in the seconds of `Clock.now`.
        unread_seconds: how long the transport left it unread after that, because others came before.
        decoded_at: when the transport had decoded it.
        trace: number of the trace that follows it; 0 for none.
        parent_trace: of what another model's request asks, the number of that one's trace; None for a client's own.
    """

    model_name: str
    model_version: str
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str, ...] = ()
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    priority: int = 0
    sequence: SequencePosition | None = None
    timeout_seconds: float = 0.0
    deadline: float | None = None
    classifications: Mapping[str, int] = field(default_factory=dict)
    emit: "Callable[[InferResponse], None] | None" = None
    received_at: float = 0.0
    unread_seconds: float = 0.0
    decoded_at: float = 0.0
    trace: int = 0
    parent_trace: int | None = None

    @property
    def decode_seconds(self) -> float:
        return self.decoded_at - self.received_at - self.unread_seconds


@dataclass(slots=True, frozen=True)
class Timings:
    """Where a request's time went, in seconds; measured once, read by headers, histograms and statistics."""

    decode: float
    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float
    batch_rows: int


@dataclass(slots=True, frozen=True)
class InferResponse:
    """One answer to a request; the last one of a decoupled model may have no outputs.

    Attributes:
        parameters: what the model or the server says besides its outputs.
    """

    model_name: str
    model_version: str
    id: str
    outputs: tuple[WireTensor, ...]
    timings: Timings
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


Settle = Callable[[InferResponse | Error], None]
"""Called exactly once for each request, on the thread that owns the queue."""


class Admitted(Protocol):
    """A request that was let in: its caller may leave before the answer."""

    def cancel(self) -> None:
        """Take it out of its queue, where it is still there; one that is running finishes unheard."""


@runtime_checkable
class Paced(Protocol):
    """A request whose model can wait with its responses."""

    def pace(self, is_behind: bool) -> None:
        """The caller is behind with reading them, or has caught up."""


def pace(admitted: object, is_behind: bool) -> None:
    """Tell a request's model whether its caller is behind, where that model can wait with its responses."""
    if isinstance(admitted, Paced):
        admitted.pace(is_behind)


Infer = Callable[[InferRequest, Settle], Admitted | None]
"""Asks a model: `settle` is called exactly once, perhaps before this returns; None if the request was refused."""
