"""Messages with tensors between two processes: words over a socket, tensors through shared memory."""

import contextlib
import os
import select
import socket
import struct
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import orjson

from enginehouse import errors
from enginehouse.dtype import Array
from enginehouse.processes.shared_tensors import IncomingTensors, OutgoingTensors

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_DESCRIPTOR = struct.Struct("i")
# For the descriptors that one read may bring; a sender writes one at a time.
_ANCILLARY_BYTES = socket.CMSG_SPACE(16 * _DESCRIPTOR.size)

Words = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Message:
    """What came: the words, and tensors that are views into the sender's memory until `Channel.give_back`."""

    words: Words
    tensors: list[Array]
    block: int | None


class Channel:
    """One end of a connection. Several threads may send; one at a time receives.

    Every method that talks to the other side raises `OSError` once that is gone.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._outgoing = OutgoingTensors()
        self._incoming = IncomingTensors()
        self._sending = Lock()
        self._free: deque[int] = deque()
        self._to_give_back: deque[int] = deque()
        self._unread = bytearray()
        self._descriptors: deque[int] = deque()
        # Not before: whoever still waits for a message holds this, and must not find another file under its number.
        self._close = weakref.finalize(self, _close, connection, self._descriptors)

    def send(self, words: Words, tensors: Sequence[Array] = ()) -> None:
        """Send words of JSON and tensors.

        Raises:
            InvalidInput: an array or a word that cannot be sent; nothing was.
        """
        encoded = _encode(words)
        with self._sending:
            self._outgoing.give_back(_emptied(self._free))
            placed = self._outgoing.place(tensors)
            has_new = placed.descriptor is not None
            letter = [encoded, placed.block, placed.places, has_new, placed.dropped, _emptied(self._to_give_back)]
            frame = orjson.dumps(letter)
            try:
                self._write(_LENGTH.pack(len(frame)) + frame, placed.descriptor)
            finally:
                if placed.descriptor is not None:
                    os.close(placed.descriptor)

    def receive(self) -> Message:
        """Wait for the next message."""
        while (frame := self._next_frame()) is None:
            data, ancillary, _, _ = self._connection.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
            for _, _, descriptors in ancillary:
                self._descriptors.extend(_DESCRIPTOR.unpack_from(descriptors, at)[0] for at in _starts(descriptors))
            if not data:
                raise ConnectionResetError("the other side ended")
            self._unread += data
        words, block, places, has_new, dropped, free = orjson.loads(frame)
        self._incoming.drop(dropped)
        if has_new:
            self._incoming.accept(block, self._descriptors.popleft())
        # Not into the sender's hands: whoever sends may wait for the other side, and reading must go on.
        self._free.extend(free)
        return Message(words, self._incoming.view(block, places), block)

    def give_back(self, message: Message) -> int:
        """Let the sender write where a message's tensors lie; it hears of it with the next message.

        Returns:
            How many blocks the sender has not heard of.
        """
        if message.block is not None:
            self._to_give_back.append(message.block)
        return len(self._to_give_back)

    def wait_until_over(self) -> None:
        """Return once the conversation has ended, on either side; messages stay where they are."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.poll()

    def shut(self) -> None:
        """End the conversation: whoever waits for a message, on either side, hears that it is over."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptors back. Nobody may wait for a message any more; a channel that is forgotten does it."""
        self._close()

    def _next_frame(self) -> bytes | None:
        if len(self._unread) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._unread)[0]
        if len(self._unread) < end:
            return None
        frame = bytes(self._unread[_LENGTH.size : end])
        del self._unread[:end]
        return frame

    def _write(self, data: bytes, descriptor: int | None) -> None:
        if descriptor is None:
            self._connection.sendall(data)
            return
        sent = socket.send_fds(self._connection, [data], [descriptor])
        self._connection.sendall(data[sent:])


def words_from_error(problem: BaseException) -> list[str]:
    """An error's kind and text; what is not of our own tree is an engine that failed."""
    if isinstance(problem, errors.Error):
        return [type(problem).__name__, str(problem)]
    return [errors.EngineFailed.__name__, f"the engine failed: {type(problem).__name__}: {problem}"]


def error_from_words(words: Sequence[str]) -> errors.Error:
    """The error again, of the same kind and with the same text."""
    kind = getattr(errors, words[0], None)
    if not isinstance(kind, type) or not issubclass(kind, errors.Error):
        kind = errors.EngineFailed
    problem: errors.Error = kind.__new__(kind)
    problem.args = (words[1],)
    return problem


def _close(connection: socket.socket, descriptors: deque[int]) -> None:
    connection.close()
    while descriptors:
        os.close(descriptors.popleft())


def _starts(descriptors: bytes) -> range:
    return range(0, len(descriptors) - _DESCRIPTOR.size + 1, _DESCRIPTOR.size)


def _emptied(numbers: deque[int]) -> list[int]:
    return [numbers.popleft() for _ in range(len(numbers))]


def _encode(words: Words) -> orjson.Fragment:
    try:
        return orjson.Fragment(orjson.dumps(words))
    except TypeError as problem:
        raise errors.InvalidInput(f"a message cannot be sent: {problem}.") from problem
