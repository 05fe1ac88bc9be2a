"""From a request of HTTP to one of the core: what its head says of it, and when it came."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from enginehouse.errors import InvalidInput
from service.clock import Clock
from service.codecs.forwarding import HeaderPattern
from service.http.body import read_body
from service.request import InferRequest

HEADER_LENGTH = "inference-header-content-length"
TIMEOUT = "x-request-timeout-ms"

# What an answer and its connection say to each other, in the scope of the request: the names of its headers as they
# were sent; and bytes that mean nothing, to be sent between two pieces of an answer that comes in pieces.
HEADER_NAMES = "enginehouse.header_names"
NOTHING_YET = "enginehouse.nothing_yet"

_MAX_DIGITS = 18
_MILLISECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")

Form = TypeVar("Form")


@dataclass(slots=True, frozen=True)
class Reader:
    """Reads the requests that ask a model.

    Attributes:
        clock: of the server.
        max_body_bytes: what a body may have, packed and unpacked.
        forwarded: headers that become parameters.
    """

    clock: Clock
    max_body_bytes: int
    forwarded: HeaderPattern

    async def read(
        self, http_request: Request, decode: Callable[[bytes], tuple[InferRequest, Form]]
    ) -> tuple[InferRequest, Form]:
        """Take the whole body, decode it, and put on the request what the head says.

        Raises:
            Error: the body or the head cannot be used.
        """
        body = await read_body(http_request, self.max_body_bytes)
        received_at = self.clock.now()
        request, form = decode(body)
        request.received_at = received_at
        request.deadline = deadline(http_request.headers.get(TIMEOUT), received_at)
        if self.forwarded:
            # As it is everywhere, what the body says outweighs the head.
            request.parameters = {**self.forwarded.parameters(_headers(http_request)), **request.parameters}
        request.decoded_at = self.clock.now()
        return request, form


def header_length(text: str | None) -> int | None:
    """Bytes of JSON at the start of the body; None if all of it is, 0 for a raw tensor; raises `InvalidInput`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise InvalidInput(f"Inference-Header-Content-Length is '{text[:40]}'; a number of bytes is expected.")
    return int(text)


def deadline(text: str | None, received_at: float) -> float | None:
    """When an answer is of no use any more; None for never; raises `InvalidInput`."""
    if text is None:
        return None
    if not _MILLISECONDS.fullmatch(text) or not float(text):
        raise InvalidInput(f"X-Request-Timeout-Ms is '{text[:40]}'; a number of milliseconds above 0 is expected.")
    return received_at + float(text) / 1000


def _headers(http_request: Request) -> Iterator[tuple[str, str]]:
    """With the names as they were sent, where the listener kept them."""
    names = http_request.scope.get(HEADER_NAMES) or [name for name, _ in http_request.scope["headers"]]
    for name, (_, value) in zip(names, http_request.scope["headers"], strict=True):
        yield name.decode("latin-1"), value.decode("latin-1")
