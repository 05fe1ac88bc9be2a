"""Responses of a decoupled model, counted by their place among those of one request, as Triton's `response_stats`."""

from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from service.statistics.duration import Duration

# Places that are told apart: more would make the statistics of a model of long streams a long stream themselves.
MAX_PLACES = 1000

Outcome = Literal["success", "fail", "empty_response", "cancel"]


@dataclass(slots=True)
class ResponseCounts:
    """What became of the responses at one place.

    Attributes:
        empty_response: ends without outputs.
        cancel: ends of requests whose caller had left.
    """

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty_response: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)


class ResponseStatistics:
    """Counts per place; the last of `MAX_PLACES` takes all that follow. Any thread may count."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._places: dict[int, ResponseCounts] = {}

    def places(self) -> list[tuple[int, ResponseCounts]]:
        """Those that had a response, the first one first."""
        with self._guard:
            return sorted(self._places.items(), key=lambda item: item[0])

    def count(self, place: int, outcome: Outcome, infer_seconds: float, output_seconds: float = 0.0) -> None:
        """Count one response.

        Args:
            place: 0 for the first response of its request.
            outcome: what it was.
            infer_seconds: what the model took for it, since the one before it or since it got the request.
            output_seconds: what it took to take its outputs over.
        """
        with self._guard:
            counts = self._places.setdefault(min(place, MAX_PLACES - 1), ResponseCounts())
            if outcome != "cancel":
                counts.compute_infer.add(infer_seconds)
            if outcome == "success":
                counts.compute_output.add(output_seconds)
            total: Duration = getattr(counts, outcome)
            total.add(infer_seconds + output_seconds)
