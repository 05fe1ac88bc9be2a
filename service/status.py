"""The one table from our errors to HTTP and gRPC."""

from dataclasses import dataclass

import grpc

from enginehouse import errors


@dataclass(slots=True, frozen=True)
class Status:
    """What a client sees of an error, and under which reason it is counted."""

    http: int
    grpc: grpc.StatusCode
    failure_reason: str


_INVALID = Status(400, grpc.StatusCode.INVALID_ARGUMENT, "OTHER")
_INTERNAL = Status(500, grpc.StatusCode.INTERNAL, "BACKEND")

STATUS: dict[type[errors.Error], Status] = {
    errors.InvalidInput: _INVALID,
    errors.NotFound: Status(404, grpc.StatusCode.NOT_FOUND, "OTHER"),
    errors.AlreadyExists: Status(400, grpc.StatusCode.ALREADY_EXISTS, "OTHER"),
    errors.Overloaded: Status(503, grpc.StatusCode.UNAVAILABLE, "REJECTED"),
    errors.NotReady: Status(503, grpc.StatusCode.UNAVAILABLE, "OTHER"),
    errors.DeadlineExceeded: Status(503, grpc.StatusCode.UNAVAILABLE, "REJECTED"),
    errors.Cancelled: Status(400, grpc.StatusCode.CANCELLED, "CANCELED"),
    errors.EngineFailed: _INTERNAL,
    errors.EngineCrashed: _INTERNAL,
    errors.CorruptVersion: _INTERNAL,
    errors.MissingExtra: _INTERNAL,
    errors.NotSupported: Status(501, grpc.StatusCode.UNIMPLEMENTED, "OTHER"),
}


def status_of(error: errors.Error) -> Status:
    """Look an error up; what has no row of its own is our fault."""
    return STATUS.get(type(error), _INTERNAL)
