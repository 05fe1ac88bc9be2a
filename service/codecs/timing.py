"""Where a request's time went, as clients read it: a `Server-Timing` header, or parameters of the answer."""

from service.request import Parameter, Timings

REQUESTED_BY = "enginehouse_timings"


def compute_seconds(timings: Timings) -> float:
    """From the start of the batch to its last output."""
    return timings.compute_input + timings.compute_infer + timings.compute_output


def server_timing(timings: Timings, encode_seconds: float) -> str:
    """The header of W3C Server Timing: durations in milliseconds, and the rows of the batch as a description."""
    parts = {
        "decode": timings.decode,
        "queue": timings.queue,
        "compute": compute_seconds(timings),
        "encode": encode_seconds,
    }
    durations = ", ".join(f"{name};dur={max(0.0, seconds) * 1000:.3f}" for name, seconds in parts.items())
    return f'{durations}, batch;desc="{timings.batch_rows}"'


def timing_parameters(timings: Timings) -> dict[str, Parameter]:
    """The same as whole microseconds; the encoding is still to come, and so not among them."""
    return {
        "decode_us": _microseconds(timings.decode),
        "queue_us": _microseconds(timings.queue),
        "compute_us": _microseconds(compute_seconds(timings)),
        "batch_rows": timings.batch_rows,
    }


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
