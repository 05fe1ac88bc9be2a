"""What callers are told in more than one part of the service, each in one wording: Triton's where clients know it."""

from enginehouse.errors import Cancelled, DeadlineExceeded, NotReady


def not_ready(model: str, version: str) -> NotReady:
    """A version that was asked for and does not answer now."""
    return NotReady(f"Request for unknown model: '{model}' version {version} is not at ready state")


def stopped(model: str, version: str) -> NotReady:
    """A version that was unloaded while a request was on its way."""
    return NotReady(f"model '{model}' version {version} was stopped before it could answer.")


def cancelled(model: str) -> Cancelled:
    """The caller left."""
    return Cancelled(f"the request to model '{model}' was cancelled.")


def came_too_late(model: str) -> DeadlineExceeded:
    """The deadline had passed before the request was admitted."""
    return DeadlineExceeded(f"model '{model}': Request timeout expired before it came to the queue.")


def waited_too_long(model: str, seconds: float) -> DeadlineExceeded:
    """The deadline passed while the request was in line."""
    return DeadlineExceeded(f"model '{model}': Request timeout expired after {seconds * 1000:.0f} ms in queue.")
