"""A request and its answer as every transport hands them to the core: raw tensor bytes with their specs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class InferRequest:
    """One call from a client; it may hold several rows.

    Attributes:
        model_version: empty for the newest version that is ready.
        outputs: names of the wanted outputs; empty for all.
        parameters: as the client sent them; `timeout`, in microseconds, has a meaning.
        received_at: when the transport had the whole request, in the seconds of `Clock.now`.
        decoded_at: when the transport had decoded it.
    """

    model_name: str
    model_version: str
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str, ...] = ()
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    received_at: float = 0.0
    decoded_at: float = 0.0


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
    """The answer to one request."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[WireTensor, ...]
    timings: Timings


Settle = Callable[[InferResponse | Error], None]
"""Called exactly once for each request, on the thread that owns the queue."""
