"""Bodies in the content encodings that clients use: gzip, and deflate, which here is zlib's format (RFC 1950)."""

import zlib

from enginehouse.errors import InvalidInput

# What zlib wants to be told to read and write each.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

ENCODINGS = tuple(_WINDOW_BITS)
IDENTITY = "identity"

# The library's middle: the highest level takes several times as long for a few percent.
_LEVEL = 6


class Decompressor:
    """Unpacks one body as it comes, never more of it than a limit.

    Args:
        encoding: one of `ENCODINGS`.
        max_bytes: what the body may have when it is unpacked.
    """

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])

    def feed(self, data: bytes) -> bytes:
        """Unpack what came.

        Raises:
            InvalidInput: it is not in the encoding, has something behind its end, or is too long.
        """
        try:
            unpacked = self._unpacker.decompress(data, self._left + 1)
        except zlib.error as problem:
            raise InvalidInput(
                f"the request body is not {self._encoding}, as Content-Encoding says: {problem}."
            ) from None
        if len(unpacked) > self._left:
            raise InvalidInput(
                f"the request body has more than the {self._max_bytes} bytes that are allowed when it is unpacked; "
                "--http-max-input-size raises the limit."
            )
        if self._unpacker.unused_data:
            raise InvalidInput(f"something follows the end of the {self._encoding} body; one whole body is expected.")
        self._left -= len(unpacked)
        return unpacked

    def finish(self) -> None:
        """Nothing more comes; raises `InvalidInput` if the body is not whole."""
        if not self._unpacker.eof:
            raise InvalidInput(f"the {self._encoding} body ends before its end; send all of it.")


def compress(body: bytes, encoding: str) -> bytes:
    """Pack a whole body in one of `ENCODINGS`."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return packer.compress(body) + packer.flush()


def accepted_encoding(accept_encoding: str) -> str:
    """Choose the encoding that a client likes best: the highest weight, the first of equals; identity if none is named.

    What cannot be read, or is not known here, is passed over, as Triton does.
    """
    best, best_weight = IDENTITY, 0.0
    for item in accept_encoding.split(","):
        name, _, parameters = item.partition(";")
        name = name.strip().lower()
        weight = _weight(parameters)
        if (name in _WINDOW_BITS or name == IDENTITY) and weight > best_weight:
            best, best_weight = name, weight
    return best


def _weight(parameters: str) -> float:
    """The `q` of RFC 9110 section 12.4.2; 1 where there is none, 0 where it is none."""
    if not parameters.strip():
        return 1.0
    key, _, value = parameters.partition("=")
    try:
        weight = float(value) if key.strip().lower() == "q" else 0.0
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
