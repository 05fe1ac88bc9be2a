"""The one tree of errors that both programs raise; `service/status.py` maps it to HTTP and gRPC.

Error:
    ├─ InvalidInput        the caller can fix it: wrong name, shape, type, file or flag
    ├─ NotFound            no such model or version
    ├─ AlreadyExists       the thing to be made is there, and differs
    ├─ Overloaded          the queue is full, or the answer would come too late
    ├─ NotReady            loading, draining, unloaded
    ├─ DeadlineExceeded    waited in the queue past its timeout
    ├─ Cancelled           the caller left
    ├─ EngineFailed        an engine could not be opened, or failed while it ran (`EngineCrashed`: its process ended)
    ├─ NotSupported        a feature of the protocol or of a model configuration that is not there
    ├─ MissingExtra        an optional library is not installed; names the extra that brings it
    ├─ CorruptVersion      files of a published version do not match its evidence
    ├─ Unsupported         offline: a step cannot treat this graph, and names the node
    └─ VerifyFailed        offline: outputs differ by more than the recipe allows
"""


class Error(Exception):
    """Root of everything this project raises on purpose."""


class InvalidInput(Error):
    """What the caller gave cannot be used; the message says what is expected."""


class NotFound(Error):
    """No model, version or file of that name."""


class AlreadyExists(Error):
    """Something of that name exists and is not the same."""


class Overloaded(Error):
    """Refused at the door, nothing was computed: the queue is full, or the answer would come too late.

    Attributes:
        retry_after_seconds: when the same request may be let in; None if nobody can say.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotReady(Error):
    """The model or the server is loading, draining or unloaded."""


class DeadlineExceeded(Error):
    """The request waited in the queue past its timeout."""


class Cancelled(Error):
    """The caller left before the answer."""


class EngineFailed(Error):
    """An engine could not be opened, or failed while it ran."""


class EngineCrashed(EngineFailed):
    """The process that an engine had to itself ended while it worked; what it worked on is lost."""


class NotSupported(Error):
    """A feature that exists in the protocol or the model configuration, but not in this server."""


class MissingExtra(Error):
    """An optional library is missing."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library '{library}', which is not installed. "
            f'Install the extra that brings it: pip install "enginehouse[{extra}]".'
        )


class CorruptVersion(Error):
    """A published version's files are missing or changed."""


class Unsupported(Error):
    """A step of the optimizer cannot treat this graph."""


class VerifyFailed(Error):
    """A candidate's outputs differ from the original's by more than the recipe allows."""
