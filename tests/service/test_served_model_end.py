"""How a served model ends: drained, abandoned, closed, or with an engine that hangs."""

import threading

import pytest

from enginehouse.errors import DeadlineExceeded, NotReady
from enginehouse.tensor import Tensors
from tests.service.conftest import Bench, MakeBench, make_request, tenfold

PATIENT = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 %s }"


def test_draining_refuses_what_is_new_and_finishes_what_is_here(bench: MakeBench) -> None:
    one: Bench = bench(PATIENT % "")
    one.ask("old")
    told: list[str] = []
    one.model.drain(lambda: told.append("drained"))
    one.ask("new")
    assert isinstance(one.answers.error("new"), NotReady)
    one.clock.advance(1)
    assert one.answers.values("old") == [10]
    assert told == ["drained"]


def test_abandoning_tells_everybody_in_line(bench: MakeBench) -> None:
    one: Bench = bench(PATIENT % "")
    one.ask("a")
    one.ask("b")
    one.model.abandon()
    for key in "ab":
        assert "was stopped before it could answer" in str(one.answers.error(key))
    one.clock.advance(5)
    assert one.engines[0].runs == []


def test_an_engine_that_cannot_be_closed_keeps_no_other_open(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one: Bench = bench("max_batch_size: 1 instance_group { count: 2 }")

    def refuse() -> None:
        raise OSError("stuck")

    with monkeypatch.context() as patched:
        patched.setattr(one.engines[0], "close", refuse)
        one.model.close()
    assert one.engines[1].is_closed
    assert "could not be closed" in caplog.text


def test_an_engine_that_hangs_neither_keeps_its_callers_nor_the_end_waiting(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.served_model.CLOSE_PATIENCE_SECONDS", 0.05)
    entered, released = threading.Event(), threading.Event()

    def hang(feeds: Tensors) -> Tensors:
        entered.set()
        assert released.wait(30)
        return tenfold(feeds)

    one = bench(function=hang, is_inline=False)
    answers: list[object] = []
    one.model.infer(make_request(), answers.append)
    one.clock.run_ready()
    assert entered.wait(30)
    one.model.infer(make_request(), answers.append)
    one.model.abandon()
    assert [type(answer) for answer in answers] == [NotReady, NotReady]
    one.model.close()
    assert "hangs; it is left behind" in caplog.text
    released.set()
    monkeypatch.undo()
    one.model.close()
    one.clock.run_ready()
    assert len(answers) == 2
    assert one.model.statistics.success.count == 0
    assert one.model.statistics.fail.count == 2


def test_who_was_told_that_its_time_is_over_behind_an_engine_that_hangs_is_counted_once(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.scheduling.instance.INLINE_BELOW_SECONDS", 0.0)
    entered, released = threading.Event(), threading.Event()

    def run(feeds: Tensors) -> Tensors:
        if feeds["x"][0, 0] == 2:
            entered.set()
            assert released.wait(30)
        one.clock.time += 0.1
        return tenfold(feeds)

    one = bench("max_batch_size: 1", function=run, is_inline=False)
    one.ask("quick")
    while not one.answers.of["quick"]:
        one.clock.run_ready()
    one.ask("hangs", make_request([2.0]))
    one.ask("behind", make_request(deadline=one.clock.now() + 0.5))
    one.clock.run_ready()
    assert entered.wait(30)
    one.clock.advance(0.1)
    assert one.model.queue_depth == 1
    one.clock.advance(1)
    assert isinstance(one.answers.error("behind"), DeadlineExceeded)
    one.model.abandon()
    assert isinstance(one.answers.error("hangs"), NotReady)
    assert one.model.statistics.fail.count == 2
    released.set()
