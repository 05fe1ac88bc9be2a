"""Visitors of a shared engine are served in turns, each by itself, and strangers not at all."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.fake_engine import FakeEngine
from enginehouse.processes import shared_worker
from enginehouse.processes.channel import Channel
from enginehouse.processes.meeting_place import PASSWORD
from enginehouse.processes.shared_worker import Turns, Visitors
from enginehouse.tensor import Tensors, TensorSpec

SPEC = TensorSpec("x", DTYPES["FP32"], (-1,))


def double(feeds: Tensors) -> Tensors:
    return {"y": feeds["x"] * 2}


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def visitors(address: Path) -> Iterator[Visitors]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(128)
    found = Visitors(listener)
    # It lets in for ever: that is for a process of its own.
    threading.Thread(target=found.let_in, daemon=True).start()
    yield found
    found.wait_until_gone(0)


def connect(address: Path, said: bytes = PASSWORD) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(address))
    connection.sendall(said)
    return connection


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_turns_are_taken_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(), list[int]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    def are_waiting(count: int) -> bool:
        return len(turns._waiting) == count

    with ThreadPoolExecutor(20) as pool, turns:
        for number in range(20):
            pool.submit(take, number)
            wait_until(partial(are_waiting, number + 1))
    assert order == list(range(20))
    with turns:
        assert not turns._waiting


def test_the_engine_computes_one_at_a_time_and_each_gets_its_own_answers(visitors: Visitors, address: Path) -> None:
    inside, most = 0, 0

    def compute(feeds: Tensors) -> Tensors:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        outputs = double(feeds)
        time.sleep(0.001)
        inside -= 1
        return outputs

    visitors.opened(FakeEngine([SPEC], [SPEC], compute))

    def ask(number: int) -> None:
        channel = Channel(connect(address))
        greeting = channel.receive().words
        assert greeting["pid"] == os.getpid()
        assert greeting["inputs"] == [["x", "FP32", [-1]]]
        for turn in range(20):
            channel.send({"names": ["x"]}, [np.full(5, 100 * number + turn, np.float32)])
            message = channel.receive()
            assert message.tensors[0].tolist() == [2 * (100 * number + turn)] * 5
            message.tensors.clear()
            channel.give_back(message)
        channel.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert most == 1


def test_who_comes_before_the_engine_is_open_waits_and_hears_what_went_wrong(visitors: Visitors, address: Path) -> None:
    early = Channel(connect(address))
    visitors.failed(InvalidInput("so it is."))
    late = Channel(connect(address))
    for channel in (early, late):
        assert channel.receive().words == {"error": ["InvalidInput", "so it is."]}
        with pytest.raises(ConnectionResetError):
            channel.receive()


def test_only_so_many_are_let_in(visitors: Visitors, address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_worker, "_MOST_VISITORS", 3)
    visitors.opened(FakeEngine([SPEC], [SPEC], double))
    inside = [Channel(connect(address)) for _ in range(3)]
    for channel in inside:
        assert "inputs" in channel.receive().words
    with socket.socket(socket.AF_UNIX) as one_more:
        one_more.settimeout(30)
        one_more.connect(str(address))
        assert one_more.recv(1) == b""
    inside.pop().close()
    wait_until(lambda: visitors._count == 2)
    assert "inputs" in Channel(connect(address)).receive().words


def test_who_says_nothing_is_sent_away(visitors: Visitors, address: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_worker, "_PASSWORD_SECONDS", 0.05)
    for said in (b"", PASSWORD[:5], b"x"):
        with connect(address, said) as stranger:
            assert stranger.recv(1) == b""
    wait_until(visitors.are_gone)


def test_somebody_at_the_door_is_not_overlooked(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(1)
        visitors = Visitors(listener)
        assert visitors.are_gone()
        with connect(address):
            assert not visitors.are_gone()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_not_served_although_it_can_connect() -> None:
    # Without a file, which the directories above it would keep from others.
    name = Path(f"\0enginehouse-test-{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(name))
    listener.listen(2)
    visitors = Visitors(listener)
    visitors.opened(FakeEngine([SPEC], [SPEC], double))
    os.seteuid(65534)
    try:
        stranger = connect(name)
    finally:
        os.seteuid(0)
    friend = connect(name)
    threading.Thread(target=visitors.let_in, daemon=True).start()
    assert "inputs" in Channel(friend).receive().words
    with stranger, pytest.raises(ConnectionResetError):
        # What it said was not even read.
        stranger.recv(1)
    visitors.wait_until_gone(0)
