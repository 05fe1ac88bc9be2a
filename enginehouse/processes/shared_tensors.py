"""Tensors in memory that two processes share: one side writes them, the other views them where they are.

The sender owns blocks of anonymous memory. A block travels once, as a file descriptor, and is a number from then on;
it is used again when the receiver has given it back. Nobody can make one smaller, so that a view never loses its
ground.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from enginehouse.dtype import DTYPES, Array, DType, array_from_bytes, bytes_from_array, dtype_from_name
from enginehouse.errors import InvalidInput, NotSupported

_ALIGNMENT = 64
_LEAST_BLOCK_BYTES = 1 << 16
_SMALL_BYTES = 1 << 12
# A block that is so many times larger than needed, so many times on end, was for something that is over.
_ROOMY, _ROOMY_TURNS = 8, 100
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_SEAL", 1)
_TEXT = DTYPES["BYTES"]
_BY_NUMPY = {row.numpy: row for row in DTYPES.values()}

# Element type, shape, offset in its block, and bytes of one tensor.
Place = tuple[str, Sequence[int], int, int]


@dataclass(slots=True, frozen=True)
class Placed:
    """Where tensors lie.

    Attributes:
        block: its number; None if there is nothing to lie anywhere.
        descriptor: of a block that the receiver has not seen yet; None for one that it knows.
        places: of each tensor, in order.
        dropped: blocks that are not used any more.
    """

    block: int | None
    descriptor: int | None
    places: list[Place]
    dropped: list[int]


class OutgoingTensors:
    """The sender's blocks. Call it from one thread at a time."""

    def __init__(self) -> None:
        self._blocks: dict[int, mmap.mmap] = {}
        self._free: set[int] = set()
        self._count = 0
        self._roomy_turns = 0

    def place(self, arrays: Sequence[Array]) -> Placed:
        """Copy arrays into a block that nobody reads; text of any kind becomes BYTES.

        Raises:
            InvalidInput: an element type that the inference protocol has no word for.
        """
        places: list[Place] = []
        contents: list[Array | bytes] = []
        content: Array | bytes
        end = 0
        for array in arrays:
            dtype = dtype_of(array)
            if not dtype.size_bytes:
                content = _text_bytes(array)
            else:
                # For a small one, making bytes is less work than making a view to copy into.
                content = array.tobytes() if array.nbytes <= _SMALL_BYTES else array
            size = len(content) if isinstance(content, bytes) else content.nbytes
            places.append((dtype.name, array.shape, end, size))
            contents.append(content)
            end = -(-(end + size) // _ALIGNMENT) * _ALIGNMENT
        if end == 0:
            return Placed(None, None, places, [])
        number, descriptor, dropped = self._take(end)
        memory = self._blocks[number]
        for (_, shape, offset, size), content in zip(places, contents, strict=True):
            if isinstance(content, bytes):
                memory[offset : offset + size] = content
            else:
                np.copyto(np.frombuffer(memory, content.dtype, content.size, offset).reshape(shape), content)
        return Placed(number, descriptor, places, dropped)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Use these blocks again: the receiver has read them."""
        self._free.update(number for number in numbers if number in self._blocks)

    def _take(self, size: int) -> tuple[int, int | None, list[int]]:
        fitting = [number for number in self._free if len(self._blocks[number]) >= size]
        if fitting:
            number = min(fitting, key=lambda found: len(self._blocks[found]))
            is_roomy = len(self._blocks[number]) > _ROOMY * max(size, _LEAST_BLOCK_BYTES)
            self._roomy_turns = self._roomy_turns + 1 if is_roomy else 0
            if self._roomy_turns < _ROOMY_TURNS:
                self._free.discard(number)
                return number, None, []
        # What is free and does not fit makes way: there are never more blocks than were once in use together.
        self._roomy_turns = 0
        dropped = sorted(self._free)
        for number in dropped:
            del self._blocks[number]
        self._free.clear()
        descriptor = _new_memory(max(_LEAST_BLOCK_BYTES, 1 << (size - 1).bit_length()))
        self._count += 1
        self._blocks[self._count] = mmap.mmap(descriptor, 0)
        return self._count, descriptor, dropped


class IncomingTensors:
    """The receiver's view of the other side's blocks. Call it from one thread at a time."""

    def __init__(self) -> None:
        self._blocks: dict[int, mmap.mmap] = {}

    def accept(self, number: int, descriptor: int) -> None:
        """Map a block that came; closes the descriptor. Raises `InvalidInput` for memory that could be cut short."""
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK == 0:
                raise InvalidInput("a block of shared memory is not sealed against shrinking.")
            self._blocks[number] = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget blocks; memory that an array still views stays until that array is gone."""
        for number in numbers:
            self._blocks.pop(number, None)

    def view(self, number: int | None, places: Iterable[Place]) -> list[Array]:
        """The tensors where they lie; BYTES become `bytes` objects. Raises `InvalidInput` for places outside."""
        memory = memoryview(b"") if number is None else memoryview(self._blocks[number])
        return [_view(memory, *place) for place in places]


def dtype_of(array: Array) -> DType:
    """The protocol's word for an array's elements; raises `InvalidInput` if there is none."""
    if array.dtype.kind in "OUS":
        return _TEXT
    try:
        return _BY_NUMPY[array.dtype]
    except KeyError:
        raise InvalidInput(f"an array of {array.dtype} cannot be sent; expected one of {', '.join(DTYPES)}.") from None


def _view(memory: memoryview, name: str, shape: Sequence[int], offset: int, size: int) -> Array:
    if min(offset, size) < 0 or offset + size > len(memory):
        raise InvalidInput(f"a tensor lies at {offset} with {size} bytes, in a block of {len(memory)}.")
    return array_from_bytes(memory[offset : offset + size], dtype_from_name(name), tuple(shape))


def _text_bytes(array: Array) -> bytes:
    try:
        return bytes_from_array(array, _TEXT)
    except (TypeError, ValueError) as problem:
        raise InvalidInput(f"an array of {array.dtype} holds what is neither text nor bytes: {problem}.") from problem


def _new_memory(size: int) -> int:
    if not hasattr(os, "memfd_create"):
        raise NotSupported("an engine in a process of its own needs Linux: this system has no memfd_create.")
    descriptor = os.memfd_create("enginehouse", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
