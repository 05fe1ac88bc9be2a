"""What an instance does with the requests of one batch: run them on its engine, and give each its answer."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enginehouse.engine import Engine
from enginehouse.errors import Error
from enginehouse.tensor import Tensors
from service.request import InferRequest, Parameter, WireTensor
from service.scheduling.queue import Pending
from service.scheduling.rows import Layout, join, split


@dataclass(slots=True, frozen=True)
class Execution:
    """One successful run of the engine, and how long each part of it took."""

    rows: int
    join_seconds: float
    infer_seconds: float
    split_seconds: float

    @property
    def seconds(self) -> float:
        return self.join_seconds + self.infer_seconds + self.split_seconds


@dataclass(slots=True, frozen=True)
class Answer:
    """What became of one request: its outputs and the execution that made them, or an error.

    Attributes:
        parameters: what the model tells the caller besides.
    """

    outputs: tuple[WireTensor, ...] = ()
    execution: Execution | None = None
    error: Error | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


class Computation(Protocol):
    """Runs on the instance's own thread, one batch at a time."""

    @property
    def may_run_inline(self) -> bool:
        """Whether the time of one batch foretells another's, so that a fast one need not go to a thread."""

    def compute(self, pendings: Sequence[Pending]) -> list[Answer]:
        """Answer each request, in order; raises whatever goes wrong for all of them."""

    def close(self) -> None: ...


Derive = Callable[[Sequence[InferRequest]], Tensors]
"""Makes inputs that describe the batch and that no client sends."""


class TensorComputation:
    """Joins the rows of all requests, runs the engine once, and slices the outputs."""

    def __init__(self, engine: Engine, layout: Layout, derive: Derive | None = None) -> None:
        self._engine = engine
        self._layout = layout
        self._derive = derive
        self.may_run_inline = layout.has_fixed_rows

    def compute(self, pendings: Sequence[Pending]) -> list[Answer]:
        requests = [pending.request for pending in pendings]
        rows = [pending.rows for pending in pendings]
        start = time.monotonic()
        feeds = join(requests, self._layout)
        if self._derive is not None:
            feeds = {**feeds, **self._derive(requests)}
        joined = time.monotonic()
        outputs = self._engine.run(feeds)
        computed = time.monotonic()
        pieces = split(outputs, requests, rows, self._layout)
        execution = Execution(sum(rows), joined - start, computed - joined, time.monotonic() - computed)
        return [Answer(outputs=piece, execution=execution) for piece in pieces]

    def close(self) -> None:
        self._engine.close()
