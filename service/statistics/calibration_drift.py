"""How far live inputs leave the ranges that INT8 was calibrated on, told from a sample of them.

An engine in static INT8 cuts what lies outside its ranges off, and answers all the same.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import numpy as np

from enginehouse.dtype import Array, array_from_bytes
from enginehouse.evidence import EngineRecord, Evidence
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.request import InferRequest, WireTensor
from service.scheduling.computation import Answer, Computation
from service.scheduling.queue import Pending

# Together they bound the cost: 100 looks of some 20 microseconds in a second, whatever the load.
LOOKS_PER_SECOND = 100.0
LOOKS_AT_ONCE = 32
VALUES_PER_LOOK = 1024

HALF_LIFE_SECONDS = 60.0

# Eight bits part a range into 255 steps.
_STEPS = 255

Range = tuple[float, float]
"""The lowest and the highest value of a tensor."""


def calibrated_inputs(evidence: Evidence, records: Sequence[EngineRecord], config: ModelConfig) -> dict[str, Range]:
    """Ranges of the inputs of a version; none unless an engine in static INT8 serves."""
    if evidence.calibration is None or not any(record.precision == "int8" for record in records):
        return {}
    names = {tensor.name for tensor in config.input}
    return {name: found for name, found in evidence.calibration.ranges.items() if name in names}


class CalibrationDrift:
    """Counts values that an engine would cut off, and forgets half of what it counted every minute.

    A value that lies within half a step of the range is rounded as well as any other, and counts as inside; what is
    not a number counts as outside. Any thread may look.

    Args:
        ranges: of each input, as calibrated.
        now: tells the time in seconds.
    """

    def __init__(self, ranges: Mapping[str, Range], now: Callable[[], float] = time.monotonic) -> None:
        self._ranges = {name: _widened(found) for name, found in ranges.items()}
        self._seen = dict.fromkeys(ranges, 0.0)
        self._outside = dict.fromkeys(ranges, 0.0)
        self._now = now
        self._looked_at = now()
        self._looks = float(LOOKS_AT_ONCE)
        self._random = np.random.default_rng()
        self._guard = Lock()

    def look(self, requests: Sequence[InferRequest]) -> None:
        """Sample the inputs of some of the requests, as many as may be looked at by now."""
        with self._guard:
            now = self._now()
            passed, self._looked_at = now - self._looked_at, now
            self._forget(passed)
            self._looks = min(LOOKS_AT_ONCE, self._looks + passed * LOOKS_PER_SECOND)
            count = min(int(self._looks), len(requests))
            self._looks -= count
            for position in self._random.permutation(len(requests))[:count] if count else ():
                self._look_at(requests[position])

    def shares(self) -> dict[str, float]:
        """The share of values outside, of each input; 0 before the first."""
        with self._guard:
            return {name: self._outside[name] / seen if seen else 0.0 for name, seen in self._seen.items()}

    def _forget(self, seconds: float) -> None:
        kept = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        for name in self._ranges:
            self._seen[name] *= kept
            self._outside[name] *= kept

    def _look_at(self, request: InferRequest) -> None:
        for tensor in request.inputs:
            if tensor.name not in self._ranges:
                continue
            values = self._sample(tensor)
            low, high = self._ranges[tensor.name]
            inside = np.count_nonzero((values >= low) & (values <= high))
            self._seen[tensor.name] += values.size
            self._outside[tensor.name] += values.size - inside

    def _sample(self, tensor: WireTensor) -> Array:
        """Values at random places: a regular step would meet the same column of every row."""
        values = array_from_bytes(tensor.data, tensor.dtype, (math.prod(tensor.shape),))
        if values.size > VALUES_PER_LOOK:
            values = values[self._random.integers(values.size, size=VALUES_PER_LOOK)]
        return values.astype(np.float64)


class WatchedComputation:
    """Runs another computation, after a look at what goes into it."""

    def __init__(self, inner: Computation, drift: CalibrationDrift) -> None:
        self._inner = inner
        self._drift = drift
        self.may_run_inline = inner.may_run_inline

    def compute(self, pendings: Sequence[Pending]) -> list[Answer]:
        self._drift.look([pending.request for pending in pendings])
        return self._inner.compute(pendings)

    def close(self) -> None:
        self._inner.close()


def _widened(calibrated: Range) -> Range:
    low, high = calibrated
    half_step = (high - low) / _STEPS / 2
    return low - half_step, high + half_step
