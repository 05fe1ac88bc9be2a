"""Heads of requests that a parser has read before: the same bytes mean the same, and need no parser again.

Clients send the same head over and over. To parse it, piece by piece, costs about as much as all that an answer needs
besides.
"""

from dataclasses import dataclass

_BEGIN = b"POST "
_END = b"\r\n\r\n"

# Heads that differ each time, by the number of a trace, push out the others; what is kept stays small.
MOST_HEADS = 256
MOST_HEAD_BYTES = 1024


@dataclass(slots=True, frozen=True)
class Asked:
    """What the head of an inference request says.

    Attributes:
        version: empty for the newest.
        header_length: the field of that name, as it was sent; None without it.
        timeout: the same.
        body_bytes: behind the head.
    """

    model: str
    version: str
    header_length: str | None
    timeout: str | None
    body_bytes: int


class KnownHeads:
    """What whole requests asked, by their heads."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Asked] = {}

    def find(self, data: bytes) -> tuple[Asked, memoryview] | None:
        """What the one whole request asks that these bytes are, and its body; None if its head is not known."""
        end = data.find(_END, 0, MOST_HEAD_BYTES) + len(_END)
        asked = self._heads.get(data[:end])
        if asked is None or len(data) != end + asked.body_bytes:
            return None
        return asked, memoryview(data)[end:]

    def remember(self, data: bytes, asked: Asked) -> None:
        """These bytes were one whole request, as a parser read it."""
        end = data.find(_END, 0, MOST_HEAD_BYTES) + len(_END)
        # Ends of lines before a request are skipped by parsers; here they would be a head, of anybody.
        if data.startswith(_BEGIN) and len(data) == end + asked.body_bytes:
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[data[:end]] = asked
