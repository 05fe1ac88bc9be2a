"""Waiting requests and idle instances are brought together; nobody waits for nothing."""

from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed
from enginehouse.tensor import TensorSpec
from tests.service.conftest import MakeBench, make_request

PATIENT = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 }"


def test_requests_of_one_iteration_run_together(bench: MakeBench) -> None:
    one = bench()
    for key in "abc":
        one.ask(key, make_request([ord(key)]))
    assert one.engines[0].runs == []
    one.clock.run_ready()
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [3]
    assert [one.answers.values(key) for key in "abc"] == [[970], [980], [990]]


def test_an_idle_instance_is_never_kept_waiting_without_a_delay(bench: MakeBench) -> None:
    one = bench()
    one.ask("a")
    one.clock.run_ready()
    assert one.answers.values("a") == [10]


def test_a_lonely_request_waits_for_company_and_no_longer(bench: MakeBench) -> None:
    one = bench(PATIENT)
    one.ask("a")
    one.clock.advance(0.4)
    one.ask("b")
    one.clock.advance(0.59)
    assert one.answers.of["a"] == []
    one.clock.advance(0.01)
    assert one.answers.values("a") == one.answers.values("b") == [10]
    assert len(one.engines[0].runs) == 1


def test_a_full_batch_does_not_wait(bench: MakeBench) -> None:
    one = bench(PATIENT)
    for key in "abcdef":
        one.ask(key)
    one.clock.run_ready()
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4]
    one.clock.advance(1)
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4, 2]
    assert all(one.answers.values(key) == [10] for key in "abcdef")


def test_preferred_sizes_cut_the_line(bench: MakeBench) -> None:
    one = bench(
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 1000000 }"
    )
    for number in range(7):
        one.ask(str(number))
    one.clock.advance(1)
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4, 2, 1]


def test_when_the_head_leaves_the_next_gets_its_own_time(bench: MakeBench) -> None:
    one = bench(PATIENT)
    first = one.ask("a")
    one.clock.advance(0.5)
    one.ask("b")
    assert first is not None
    first.cancel()
    one.clock.advance(0.9)
    assert one.answers.of["b"] == []
    one.clock.advance(0.1)
    assert one.answers.values("b") == [10]


def test_the_line_is_served_in_its_order_whatever_the_sizes(bench: MakeBench) -> None:
    one = bench()
    sizes = [1, 4, 2, 3, 1, 1, 4]
    for number, size in enumerate(sizes):
        one.ask(str(number), make_request([number] * size))
    one.clock.run_ready()
    seen = [row for feeds in one.engines[0].runs for row in feeds["x"][:, 0].tolist()]
    assert seen == [number for number, size in enumerate(sizes) for _ in range(size)]
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [1, 4, 2, 4, 1, 4]


def test_a_batch_that_fails_fails_alone(bench: MakeBench) -> None:
    one = bench()
    one.engines[0].failures.extend(RuntimeError("planted") for _ in range(5))
    for number in range(6):
        one.ask(str(number))
    one.clock.run_ready()
    for key in "0123":
        assert isinstance(one.answers.error(key), EngineFailed)
    assert one.answers.values("4") == one.answers.values("5") == [10]


def test_a_model_without_a_batch_runs_each_request_alone(bench: MakeBench) -> None:
    fixed = tuple(TensorSpec(name, DTYPES["FP32"], (2, 2)) for name in "xy")
    one = bench("", inputs=fixed[:1], outputs=fixed[1:])
    for key in "abc":
        one.ask(key, make_request([1, 2]))
    one.clock.run_ready()
    assert [feeds["x"].shape for feeds in one.engines[0].runs] == [(2, 2)] * 3
    assert one.answers.values("c") == [10, 20]


def test_an_instance_gets_its_next_batch_before_callers_hear_of_the_last(bench: MakeBench) -> None:
    one = bench()
    runs_when_told: list[int] = []
    for _ in range(8):
        one.model.infer(make_request(), lambda _: runs_when_told.append(len(one.engines[0].runs)))
    one.clock.run_ready()
    assert runs_when_told == [2] * 8


def test_quiet_is_told_once_when_nobody_waits_and_nothing_runs(bench: MakeBench) -> None:
    one, told = bench(PATIENT), list[str]()
    one.ask("a")
    one.model.drain(lambda: told.append("quiet"))
    assert told == []
    one.clock.advance(1)
    assert told == ["quiet"]
    one.clock.advance(5)
    assert told == ["quiet"]


def test_quiet_comes_also_when_the_last_one_leaves(bench: MakeBench) -> None:
    one, told = bench(PATIENT), list[str]()
    pending = one.ask("a")
    one.model.drain(lambda: told.append("quiet"))
    assert pending is not None
    pending.cancel()
    one.clock.run_ready()
    assert told == ["quiet"]
