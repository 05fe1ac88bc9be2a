"""The one table from our errors to HTTP and gRPC."""

import grpc
import pytest

from enginehouse import errors
from service.statistics.statistics import FAILURE_REASONS
from service.status import STATUS, status_of

# What only the optimizer raises, or what a load wraps before a client hears of it.
OFFLINE = {errors.Unsupported, errors.VerifyFailed}


def kinds_of(error: type[errors.Error]) -> set[type[errors.Error]]:
    """Every kind below an error, at any depth, that the one tree holds."""
    below = [kind for kind in error.__subclasses__() if kind.__module__ == errors.__name__]
    return set(below).union(*(kinds_of(kind) for kind in below))


KINDS = kinds_of(errors.Error)


def test_every_error_that_a_client_can_meet_has_a_row() -> None:
    assert set(STATUS) == KINDS - OFFLINE


@pytest.mark.parametrize(
    ("kind", "http", "code"),
    [
        (errors.InvalidInput, 400, "INVALID_ARGUMENT"),
        (errors.NotFound, 404, "NOT_FOUND"),
        (errors.AlreadyExists, 400, "ALREADY_EXISTS"),
        (errors.Overloaded, 503, "UNAVAILABLE"),
        (errors.NotReady, 503, "UNAVAILABLE"),
        (errors.DeadlineExceeded, 503, "UNAVAILABLE"),
        (errors.Cancelled, 400, "CANCELLED"),
        (errors.EngineFailed, 500, "INTERNAL"),
        (errors.NotSupported, 501, "UNIMPLEMENTED"),
        (errors.CorruptVersion, 500, "INTERNAL"),
        (errors.VerifyFailed, 500, "INTERNAL"),
    ],
)
def test_codes_are_those_that_existing_clients_know(kind: type[errors.Error], http: int, code: str) -> None:
    status = status_of(kind("x"))
    assert (status.http, status.grpc) == (http, grpc.StatusCode[code])


def test_failures_are_counted_under_the_reasons_of_the_metric() -> None:
    assert {status.failure_reason for status in STATUS.values()} == set(FAILURE_REASONS)


def test_the_callers_faults_never_share_a_status_with_ours() -> None:
    assert status_of(errors.EngineFailed("x")).http not in {
        status_of(kind("x")).http
        for kind in (errors.InvalidInput, errors.NotFound, errors.Overloaded, errors.Cancelled)
    }
