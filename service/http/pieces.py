"""What came on a connection and is not parsed yet, in pieces of which none keeps the loop for long.

A socket gives up to 256 KiB at once. As the body of a request that is nothing; as requests in a row it is fourteen
thousand, which took a third of a second to begin, and thirty megabytes to keep.
"""

# Pieces grow while they hold no more than one request.
FIRST_PIECE_BYTES = 1 << 12
MAX_PIECE_BYTES = 1 << 16

# Requests of one connection that wait behind the one at work; what came behind them stays as it came.
MAX_IN_LINE = 64


class Pieces:
    """Give it what comes; take it out piece by piece."""

    __slots__ = ("_at", "_data", "_size")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._size = FIRST_PIECE_BYTES

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def add(self, data: bytes) -> None:
        self._data, self._at = self._data[self._at :] + data, 0

    def next(self) -> bytes:
        """The next piece, which is empty behind the last one."""
        piece = self._data[self._at : self._at + self._size]
        self._at += len(piece)
        if not self:
            self.clear()
        return piece

    def grow(self, is_dense: bool) -> None:
        """The last piece held several requests, or no more than one."""
        self._size = FIRST_PIECE_BYTES if is_dense else min(2 * self._size, MAX_PIECE_BYTES)

    def clear(self) -> None:
        self._data, self._at, self._size = b"", 0, FIRST_PIECE_BYTES
