"""Tensors keep their values on the way through shared memory, and blocks are used again."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.processes.shared_tensors import IncomingTensors, OutgoingTensors, Placed


def carry(outgoing: OutgoingTensors, incoming: IncomingTensors, arrays: list[Array]) -> tuple[Placed, list[Array]]:
    placed = outgoing.place(arrays)
    incoming.drop(placed.dropped)
    if placed.descriptor is not None:
        assert placed.block is not None
        incoming.accept(placed.block, placed.descriptor)
    return placed, incoming.view(placed.block, placed.places)


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.size_bytes])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (1, 2, 3, 4)])
def test_each_element_type_keeps_its_bits(name: str, shape: tuple[int, ...]) -> None:
    dtype = DTYPES[name]
    count = int(np.prod(shape))
    bits = np.random.default_rng(0).integers(0, 2, count * dtype.size_bytes, np.uint8)
    array = np.frombuffer(bits.tobytes(), dtype.numpy).reshape(shape)
    _, (there,) = carry(OutgoingTensors(), IncomingTensors(), [array])
    assert (there.dtype, there.shape, there.tobytes()) == (dtype.numpy, shape, array.tobytes())


def test_text_arrives_as_bytes_whatever_held_it() -> None:
    arrays = [np.array(["a", "ü"]), np.array([b"a", b"b\x00c"], object), np.array([["x"], ["long" * 40000]], object)]
    _, there = carry(OutgoingTensors(), IncomingTensors(), arrays)
    assert there[0].tolist() == [b"a", "ü".encode()]
    assert there[1].tolist() == [b"a", b"b\x00c"]
    assert there[2].tolist() == [[b"x"], [b"long" * 40000]]


def test_strided_and_several_arrays_lie_side_by_side() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays: list[Array] = [whole[:, ::2], whole.T, np.array(7, np.int8)]
    _, there = carry(OutgoingTensors(), IncomingTensors(), arrays)
    for sent, arrived in zip(arrays, there, strict=True):
        np.testing.assert_array_equal(arrived, sent)


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=12))
def test_no_more_blocks_than_are_in_use_at_once(sizes: list[int]) -> None:
    outgoing, incoming = OutgoingTensors(), IncomingTensors()
    for size in sizes:
        sent = np.arange(size, dtype=np.float32)
        placed, (there,) = carry(outgoing, incoming, [sent])
        np.testing.assert_array_equal(there, sent)
        if placed.block is not None:
            outgoing.give_back([placed.block])
        assert len(outgoing._blocks) <= 1
        assert len(incoming._blocks) <= 1


def test_memory_of_one_large_tensor_is_given_back_when_none_follows() -> None:
    outgoing, incoming = OutgoingTensors(), IncomingTensors()

    def carry_one(size: int) -> None:
        placed, _ = carry(outgoing, incoming, [np.zeros(size, np.uint8)])
        assert placed.block is not None
        outgoing.give_back([placed.block])

    carry_one(50 << 20)
    for _ in range(99):
        carry_one(100)
    assert sum(map(len, outgoing._blocks.values())) == 64 << 20, "another one may follow"
    carry_one(100)
    assert sum(map(len, outgoing._blocks.values())) == 64 << 10
    assert sum(map(len, incoming._blocks.values())) == 64 << 10


def test_a_block_that_is_being_read_is_not_written() -> None:
    outgoing, incoming = OutgoingTensors(), IncomingTensors()
    _, (first,) = carry(outgoing, incoming, [np.zeros(4)])
    _, (second,) = carry(outgoing, incoming, [np.ones(4)])
    assert first.tolist() == [0] * 4
    assert second.tolist() == [1] * 4


def test_what_no_word_stands_for_is_refused_and_takes_no_memory() -> None:
    outgoing = OutgoingTensors()
    for array in (np.zeros(2, np.complex64), np.array([3, None], object)):
        with pytest.raises(InvalidInput):
            outgoing.place([np.zeros(2), array])
    assert not outgoing._blocks


def test_places_outside_a_block_are_refused() -> None:
    outgoing, incoming = OutgoingTensors(), IncomingTensors()
    placed, _ = carry(outgoing, incoming, [np.zeros(2)])
    for place in [("FP64", [2], 1 << 16, 16), ("FP64", [2], -8, 16), ("FP64", [2], 0, -1), ("FP64", [9], 0, 16)]:
        with pytest.raises(InvalidInput):
            incoming.view(placed.block, [place])


def test_memory_that_its_sender_could_cut_short_is_not_mapped() -> None:
    descriptor = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(InvalidInput, match="not sealed"):
        IncomingTensors().accept(1, descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(descriptor)


def test_nobody_can_cut_short_what_was_sent() -> None:
    placed = OutgoingTensors().place([np.zeros(2)])
    assert placed.descriptor is not None
    with pytest.raises(PermissionError):
        os.ftruncate(placed.descriptor, 10)
    os.close(placed.descriptor)


def test_another_system_is_told_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(NotSupported, match="needs Linux"):
        OutgoingTensors().place([np.zeros(2)])
