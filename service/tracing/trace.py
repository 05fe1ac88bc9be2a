"""Traces of single requests: when each step of one happened, and its tensors, in a file that Triton's tools read.

A trace reads what was measured anyway (`Timings`); it takes no stopwatch of its own.
"""

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from enginehouse.dtype import array_from_bytes
from enginehouse.errors import Error
from service.request import InferRequest, InferResponse, Settle, WireTensor
from service.tracing.trace_file import TraceFile
from service.tracing.trace_settings import Changes, TraceSettings, changed, parse_changes

# Of each tensor at most so many elements: a trace must not cost more than its request.
MAX_ELEMENTS = 1000
_BUFFERED = 100


class Tracer:
    """Decides which requests are traced, and collects them. Only the thread of the queues calls it.

    Args:
        defaults: the settings that the server was started with.
        now: seconds, of the clock that stamped the requests.
    """

    def __init__(self, defaults: TraceSettings, now: Callable[[], float]) -> None:
        self._defaults = defaults
        self._now = now
        self._changes: dict[str, dict[str, Any]] = {}
        self._file = TraceFile(defaults.trace_file)
        self._ids = itertools.count(1)
        self._open: dict[int, _Trace] = {}
        self._samplers = {"": _Sampler(defaults, self._file)}
        self.is_on = bool(defaults.trace_level)

    def settings(self, model: str = "") -> TraceSettings:
        """What a model's traces go by, the traces still to be made counted down; of all other models if empty."""
        sampler = self._sampler(model)
        return replace(sampler.settings, trace_count=sampler.left)

    def update(self, model: str, changes: Changes) -> None:
        """Change the settings of a model, or those of all that have none of their own, in one step.

        Raises:
            InvalidInput: an unknown name or value, or traces without a file.
            NotSupported: the file was named.
        """
        parsed = parse_changes(changes)
        merged = {**self._changes.get(model, {}), **parsed}
        kept = {name: value for name, value in merged.items() if value is not None}
        everything = {**self._changes, model: kept}
        shared = changed(self._defaults, everything.get("", {}))
        settings = {name: changed(shared, own) for name, own in everything.items() if own and name}
        for sampler in self._samplers.values():
            sampler.flush()
        self._changes = {name: own for name, own in everything.items() if own}
        self._samplers = {name: self._renewed(name, wanted) for name, wanted in {"": shared, **settings}.items()}
        self.is_on = any(sampler.settings.trace_level for sampler in self._samplers.values())

    def follow(self, request: InferRequest, settle: Settle) -> Settle:
        """Trace a request if it is its turn; the result takes the place of `settle`.

        What a request of another model asks is traced where that one is, and belongs to its trace.
        """
        trace = self._trace_of(request)
        if trace is None:
            return settle
        queued_at = self._now()
        identifier = request.trace = next(self._ids)
        inputs = request.inputs
        self._open[identifier] = trace
        trace.begin()

        def settle_and_trace(result: InferResponse | Error) -> None:
            settle(result)
            del self._open[identifier]
            trace.end(_Part(identifier, request, inputs, result, _stamps(request, result, queued_at, self._now())))

        return settle_and_trace

    def close(self) -> None:
        """Write what is there."""
        for sampler in self._samplers.values():
            sampler.flush()
        self._file.close()

    def _trace_of(self, request: InferRequest) -> "_Trace | None":
        if request.parent_trace is not None:
            return self._open.get(request.parent_trace)
        sampler = self._sampler(request.model_name)
        return _Trace(sampler) if sampler.is_next() else None

    def _sampler(self, model: str) -> "_Sampler":
        return self._samplers.get(model) or self._samplers[""]

    def _renewed(self, name: str, wanted: TraceSettings) -> "_Sampler":
        """The sampler there is, with its counts, unless its settings changed."""
        there = self._samplers.get(name)
        return there if there is not None and there.settings == wanted else _Sampler(wanted, self._file)


@dataclass(slots=True, frozen=True)
class _Part:
    """What is known of one request at its end."""

    number: int
    request: InferRequest
    inputs: tuple[WireTensor, ...]
    result: InferResponse | Error
    stamps: list[tuple[str, float]]


class _Trace:
    """A client's request, and all that other models were asked for it; it is whole once all of them have ended."""

    def __init__(self, sampler: "_Sampler") -> None:
        self.parts: list[_Part] = []
        self._sampler = sampler
        self._running = 0

    def begin(self) -> None:
        self._running += 1

    def end(self, part: _Part) -> None:
        self.parts.append(part)
        self._running -= 1
        if not self._running:
            self._sampler.add(self)


class _Sampler:
    """Counts requests and traces under one set of settings."""

    def __init__(self, settings: TraceSettings, file: TraceFile) -> None:
        self.settings = settings
        self.left = settings.trace_count
        self._file = file
        self._seen = 0
        self._open = 0
        self._traces: list[Callable[[], list[dict[str, Any]]]] = []

    def is_next(self) -> bool:
        if not self.settings.trace_level or not self.left:
            return False
        self._seen += 1
        if self._seen % self.settings.trace_rate:
            return False
        self.left -= self.left > 0
        self._open += 1
        return True

    def add(self, trace: "_Trace") -> None:
        """Take a trace that is whole."""
        self._open -= 1
        levels = self.settings.trace_level
        parts = sorted(trace.parts, key=lambda part: part.number)
        self._traces.append(lambda: [entry for part in parts for entry in _activities(part, levels)])
        is_last = not self.left and not self._open
        if len(self._traces) >= (self.settings.log_frequency or _BUFFERED) or is_last:
            self.flush()

    def flush(self) -> None:
        if self._traces:
            self._file.save(self._traces, is_numbered=self.settings.log_frequency > 0)
            self._traces = []


def _activities(part: _Part, levels: Collection[str]) -> list[dict[str, Any]]:
    """One request as Triton's tools read it."""
    request, result, number = part.request, part.result, part.number
    outputs = result.outputs if isinstance(result, InferResponse) else ()
    version = result.model_version if isinstance(result, InferResponse) else request.model_version
    head: dict[str, Any] = {"id": number, "model_name": request.model_name}
    head["model_version"] = int(version) if version.isdecimal() else -1
    if request.id:
        head["request_id"] = request.id
    if request.parent_trace is not None:
        head["parent_id"] = request.parent_trace
    found = [head]
    if "TIMESTAMPS" in levels:
        found += [{"id": number, "timestamps": [{"name": name, "ns": int(at * 1e9)}]} for name, at in part.stamps]
    if "TENSORS" in levels:
        found += [_tensor(number, "TENSOR_QUEUE_INPUT", tensor) for tensor in part.inputs]
        found += [_tensor(number, "TENSOR_BACKEND_OUTPUT", tensor) for tensor in outputs]
    return found


def _stamps(
    request: InferRequest, result: InferResponse | Error, queued_at: float, now: float
) -> list[tuple[str, float]]:
    """When each step happened: from the times that were measured, laid end to end after the queue."""
    stamps = [("REQUEST_START", request.received_at or queued_at), ("QUEUE_START", queued_at)]
    if isinstance(result, InferResponse):
        timings = result.timings
        at = queued_at + timings.queue
        stamps.append(("COMPUTE_START", at))
        at += timings.compute_input
        stamps.append(("COMPUTE_INPUT_END", at))
        at += timings.compute_infer
        stamps.append(("COMPUTE_OUTPUT_START", at))
        stamps.append(("COMPUTE_END", at + timings.compute_output))
    return [*stamps, ("REQUEST_END", now)]


def _tensor(identifier: int, activity: str, tensor: WireTensor) -> dict[str, Any]:
    elements = array_from_bytes(tensor.data, tensor.dtype, tensor.shape).ravel()[:MAX_ELEMENTS].tolist()
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in elements]
    found = {"name": tensor.name, "data": ",".join(texts), "shape": ",".join(map(str, tensor.shape))}
    return {"id": identifier, "activity": activity, "tensor": {**found, "dtype": tensor.dtype.name}}
