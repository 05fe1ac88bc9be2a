"""Messages arrive whole, in order and with their tensors, however the socket cuts them."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.processes.channel import Channel, Words, error_from_words, words_from_error


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = (Channel(end) for end in socket.socketpair())
    yield here, there
    here.close()
    there.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_messages_that_wait_together_are_told_apart(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for number in range(40):
        here.send({"number": number}, [np.full(number * 1000, number)])
    for number in range(40):
        message = there.receive()
        assert message.words == {"number": number}
        assert message.tensors[0].tolist() == [number] * (number * 1000)


def test_a_message_larger_than_any_buffer_arrives(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    words = {"text": "x" * 3_000_000}
    sender = threading.Thread(target=here.send, args=(words, [np.arange(5)]))
    sender.start()
    message = there.receive()
    sender.join(30)
    assert message.words == words
    assert message.tensors[0].tolist() == [0, 1, 2, 3, 4]


def test_memory_and_descriptors_are_used_again(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    for turn in range(200):
        here.send({}, [np.full(50_000 + 100 * turn, turn)])
        request = there.receive()
        there.give_back(request)
        there.send({}, request.tensors)
        reply = here.receive()
        assert reply.tensors[0][-1] == turn
        here.give_back(reply)
        if turn == 50:
            before = descriptors()
    assert descriptors() <= before + 2
    assert len(here._outgoing._blocks) <= 2


def test_what_cannot_be_sent_leaves_the_conversation_as_it_was(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    cases: list[tuple[Words, list[Array]]] = [
        ({"odd": object()}, []),
        ({}, [np.zeros(2, np.complex64)]),
        ({"big": 1 << 70}, []),
    ]
    for words, tensors in cases:
        with pytest.raises(InvalidInput):
            here.send(words, tensors)
    here.send({"after": True}, [np.ones(1)])
    assert there.receive().words == {"after": True}


def test_both_sides_hear_of_the_end(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    here.shut()
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system says
        there.receive()
    with pytest.raises(OSError):  # noqa: PT011
        here.receive()
    with pytest.raises(OSError):  # noqa: PT011
        there.send({})


def test_a_descriptor_that_was_never_read_is_closed_with_the_channel() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    before = descriptors()
    here.send({}, [np.ones(3)])
    there._connection.setblocking(False)
    _, ancillary, _, _ = there._connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
    there._descriptors.append(int.from_bytes(ancillary[0][2][:4], "little"))
    here.close()
    there.close()
    # The sender's own map of the block keeps one.
    assert descriptors() == before - 2 + 1


@pytest.mark.parametrize(
    ("problem", "kind", "text"),
    [
        (InvalidInput("so it is."), InvalidInput, "so it is."),
        (MissingExtra("openvino", "openvino", "running x"), MissingExtra, "running x needs the library 'openvino'"),
        (ZeroDivisionError("odd"), EngineFailed, "the engine failed: ZeroDivisionError: odd"),
    ],
)
def test_an_error_keeps_its_kind_and_its_words(problem: Exception, kind: type[Exception], text: str) -> None:
    again = error_from_words(words_from_error(problem))
    assert type(again) is kind
    assert str(again).startswith(text)


def test_a_kind_that_this_side_does_not_know_is_an_engine_that_failed() -> None:
    assert type(error_from_words(["Newer", "words"])) is EngineFailed
    assert type(error_from_words(["__doc__", "words"])) is EngineFailed
