"""A served model answers every request exactly once, whatever happens around it."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed, Error, InvalidInput, Overloaded
from enginehouse.model_config import config_from_text
from enginehouse.tensor import Tensors
from service.clock import LoopClock
from service.request import InferRequest, InferResponse
from service.scheduling.queue_policy import DEFAULT_MAX_QUEUE_SIZE
from service.served_model import layout_from_config, policy_from_config
from service.status import status_of
from tests.service.conftest import Bench, MakeBench, make_bench, make_request, tenfold, tensor

PATIENT = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 %s }"
SLO = 'parameters { key: "slo_ms" value { string_value: "1000" } }'
EXPIRING = PATIENT % "default_queue_policy { default_timeout_microseconds: 500000 %s }"


@pytest.mark.parametrize("is_inline", [True, False])
@pytest.mark.parametrize("outcome", [InferResponse, EngineFailed, DeadlineExceeded])
def test_an_answered_request_leaves_no_cycle_that_a_collector_must_find(
    bench: MakeBench, outcome: type[object], is_inline: bool
) -> None:
    one: Bench = bench("max_batch_size: 4 dynamic_batching { } " + SLO, is_inline=is_inline)
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            if outcome is EngineFailed:
                one.engines[0].failures.append(EngineFailed("planted"))
            one.ask(str(number), make_request(deadline=-1.0 if outcome is DeadlineExceeded else 1.0))
            while not one.answers.of[str(number)]:
                one.clock.run_ready()
        assert all(isinstance(answer, outcome) for (answer,) in one.answers.of.values())
        one.answers.of.clear()
        assert gc.collect() < 50
    finally:
        gc.enable()


def test_an_answer_says_whose_it_is_and_where_the_time_went(bench: MakeBench) -> None:
    one: Bench = bench(PATIENT % "")
    one.clock.advance(10)
    one.ask("a", make_request([1], id="7", received_at=9.0, unread_seconds=0.25, decoded_at=9.5))
    one.clock.advance(1)
    (answer,) = one.answers.of["a"]
    assert isinstance(answer, InferResponse)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "7")
    timings = answer.timings
    assert (timings.decode, timings.queue, timings.batch_rows) == (0.25, 1.25, 1)
    assert one.model.statistics.success.seconds == 2.0
    assert one.model.statistics.last_inference_ms > 0


def test_batch_results_equal_the_rows_one_by_one(bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 2)).astype(np.float32)

    def answers(one: Bench, at_once: bool) -> list[bytes]:
        for number, row in enumerate(rows):
            one.ask(str(number), InferRequest("m", "", (tensor(row[None]),)))
            if not at_once:
                one.clock.run_ready()
        one.clock.run_ready()
        told = [one.answers.of[str(number)][0] for number in range(len(rows))]
        return [bytes(answer.outputs[0].data) for answer in told if isinstance(answer, InferResponse)]

    together, alone = bench(), bench()
    assert answers(together, True) == answers(alone, False)
    assert len(together.engines[0].runs) == 3
    assert len(alone.engines[0].runs) == 9


@pytest.mark.parametrize(
    ("policy", "limit"),
    [("", DEFAULT_MAX_QUEUE_SIZE), ("default_queue_policy { max_queue_size: 3 }", 3)],
)
def test_a_full_queue_refuses_at_once(bench: MakeBench, policy: str, limit: int) -> None:
    one: Bench = bench(PATIENT % policy)
    for number in range(limit + 1):
        one.ask(str(number))
    assert isinstance(one.answers.error(str(limit)), Overloaded)
    assert one.model.queue_depth == limit
    assert one.model.statistics.failures["REJECTED"] == 1


def test_a_policy_without_a_size_is_unlimited(bench: MakeBench) -> None:
    one: Bench = bench(PATIENT % "default_queue_policy { }")
    for number in range(DEFAULT_MAX_QUEUE_SIZE + 10):
        one.ask(str(number))
    assert one.model.queue_depth == DEFAULT_MAX_QUEUE_SIZE + 10


@pytest.mark.parametrize(
    ("text", "timeout", "expires_after"),
    [
        (EXPIRING % "", 0, 0.5),
        (EXPIRING % "", 100_000, 0.5),
        (EXPIRING % "allow_timeout_override: true", 100_000, 0.1),
        (EXPIRING % "allow_timeout_override: true", 900_000, 0.5),
        (PATIENT % "", 100_000, 0.1),
        (PATIENT % "", 2**64 - 1, None),
        (PATIENT % "", 0, None),
    ],
)
def test_a_request_may_lower_the_timeout_where_it_is_let(
    bench: MakeBench, text: str, timeout: int, expires_after: float | None
) -> None:
    one: Bench = bench(text)
    one.ask("a", make_request(parameters={"timeout": timeout}))
    if expires_after is None:
        one.clock.advance(5)
        assert one.answers.values("a") == [10]
        return
    one.clock.advance(expires_after - 0.01)
    assert one.answers.of["a"] == []
    one.clock.advance(0.02)
    assert isinstance(one.answers.error("a"), DeadlineExceeded)
    assert one.engines[0].runs == []


@pytest.mark.parametrize("timeout", ["soon", 1.5, True, -1])
def test_a_timeout_that_is_no_whole_number_is_refused(bench: MakeBench, timeout: Any) -> None:
    one: Bench = bench()
    assert one.ask("a", make_request(parameters={"timeout": timeout})) is None
    assert isinstance(one.answers.error("a"), InvalidInput)
    assert "expected microseconds" in str(one.answers.error("a"))


def test_expired_and_cancelled_requests_are_told_while_the_engine_is_busy(bench: MakeBench) -> None:
    entered, may_end = threading.Event(), threading.Event()

    def blocked(feeds: Tensors) -> Tensors:
        entered.set()
        assert may_end.wait(30)
        return tenfold(feeds)

    one: Bench = bench(function=blocked, is_inline=False)
    one.ask("running")
    one.clock.run_ready()
    assert entered.wait(30)
    one.ask("hurried", make_request(parameters={"timeout": 1000}))
    leaver = one.ask("leaver")
    one.clock.advance(0.002)
    assert isinstance(one.answers.error("hurried"), DeadlineExceeded)
    assert leaver is not None
    leaver.cancel()
    assert isinstance(one.answers.error("leaver"), Cancelled)
    assert one.answers.of["running"] == []
    may_end.set()
    one.model.close()
    one.clock.run_ready()
    assert one.answers.values("running") == [10]
    assert len(one.engines[0].runs) == 1


def test_several_instances_run_at_the_same_time(bench: MakeBench) -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(feeds: Tensors) -> Tensors:
        meeting.wait()
        return tenfold(feeds)

    one: Bench = bench("max_batch_size: 1 instance_group { count: 3 }", meet, is_inline=False)
    for key in "abc":
        one.ask(key)
    one.clock.run_ready()
    one.model.close()
    one.clock.run_ready()
    assert [one.answers.values(key) for key in "abc"] == [[10]] * 3
    assert [len(engine.runs) for engine in one.engines] == [1, 1, 1]


def fail_to_hear(_: object) -> None:
    raise ConnectionResetError("the client left")


def test_a_caller_that_fails_hurts_neither_its_mates_nor_the_server(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    one: Bench = bench()
    with caplog.at_level(logging.CRITICAL, "service.scheduling.queue"):
        one.model.infer(make_request(), fail_to_hear)
        one.ask("mate")
        assert one.model.infer(make_request([1] * 9), fail_to_hear) is None
        one.clock.run_ready()
    assert one.answers.values("mate") == [10]
    assert one.model.statistics.success.count == 2


async def test_a_request_costs_no_task_and_no_future() -> None:
    loop = asyncio.get_running_loop()
    one = make_bench()
    one.model._clock = LoopClock(loop)
    done = asyncio.Event()

    def forbidden(*_: object, **__: object) -> Any:
        raise AssertionError("made for a request")

    for name in ("create_task", "create_future", "run_in_executor"):
        setattr(loop, name, forbidden)
    one.model.infer(make_request(), lambda _: done.set())
    one.clock.run_ready()
    for name in ("create_task", "create_future", "run_in_executor"):
        delattr(loop, name)
    assert done.is_set()
    one.model.close()


def test_the_policy_and_the_layout_are_read_from_the_configuration() -> None:
    config = config_from_text(
        """max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 8, 2 ] max_queue_delay_microseconds: 250 }
        input { name: 'a' data_type: TYPE_FP32 dims: 4 reshape { shape: [ 2, 2 ] } }
        output { name: 'b' data_type: TYPE_FP32 dims: 1 reshape { } }
        output { name: 'c' data_type: TYPE_FP32 dims: 1 }""",
        "m",
    )
    policy = policy_from_config(config)
    assert (policy.max_batch_rows, policy.preferred_rows, policy.max_queue_delay_seconds) == (8, (2, 8), 0.00025)
    assert policy.is_dynamic
    layout = layout_from_config(config)
    assert layout.engine_shapes == {"a": (-1, 2, 2)}
    assert layout.engine_output_shapes == {"b": (-1,)}
    assert layout.has_batch_axis


# One step of a random day: what happens, and to whom.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 6)),
        st.tuples(st.just("ask in time"), st.integers(1, 2_000_000)),
        st.tuples(st.just("ask deafly"), st.integers(1, 2)),
        st.tuples(st.just("ask with priority"), st.integers(0, 5)),
        st.tuples(st.just("ask until"), st.integers(-100, 3000)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("pass"), st.integers(0, 1500)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 2)),
        st.tuples(st.just("drain"), st.just(0)),
        st.tuples(st.just("abandon"), st.just(0)),
    ),
    max_size=60,
)
LIMITED = "default_queue_policy { max_queue_size: 5 allow_timeout_override: true %s }"
SLO = ' parameters { key: "slo_ms" value { string_value: "900" } }'
DYNAMIC = "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 1000000 %s }"
PROMISES = [
    DYNAMIC % f"preferred_batch_size: 3 {LIMITED % ''}",
    DYNAMIC % f"preserve_ordering: true {LIMITED % ''}",
    DYNAMIC % f"priority_levels: 3 default_priority_level: 2 {LIMITED % ''}",
    DYNAMIC % f"priority_levels: 2 default_priority_level: 1 {LIMITED % 'timeout_action: DELAY'}",
    DYNAMIC % f"priority_levels: 3 default_priority_level: 3 {LIMITED % ''}" + SLO,
    "max_batch_size: 4 dynamic_batching { }" + SLO,
]


@settings(max_examples=150)
@given(STEPS, st.integers(1, 3), st.sampled_from(PROMISES))
def test_every_request_is_answered_exactly_once(steps: list[tuple[str, int]], instances: int, promise: str) -> None:
    one = make_bench(f"{promise} instance_group {{ count: {instances} }}")
    # The deaf callers of a day would each leave a traceback in the log.
    logging.disable(logging.CRITICAL)
    try:
        day = Day(one)
        for what, number in steps:
            day.step(what, number)
        one.clock.advance(100)
        one.model.close()
    finally:
        logging.disable(logging.NOTSET)
    for key, answers in one.answers.of.items():
        assert len(answers) == 1, f"request {key} was answered {len(answers)} times: {answers}"
    statistics = one.model.statistics
    assert statistics.success.count + statistics.fail.count == len(one.answers.of)
    assert sum(statistics.failures.values()) == statistics.fail.count
    assert one.model.queue_depth == 0
    for key, rows in day.asked.items():
        (answer,) = one.answers.of[key]
        if isinstance(answer, InferResponse):
            assert one.answers.values(key) == [10 * row for row in rows]
        else:
            assert status_of(answer).failure_reason in statistics.failures


class Day:
    def __init__(self, one: Bench) -> None:
        self.one = one
        self.asked: dict[str, list[float]] = {}
        self.pendings: list[Any] = []
        self.steps: dict[str, Callable[[int], object]] = {
            "ask": lambda number: self.ask([float(len(self.asked))] * number),
            "ask in time": lambda number: self.ask([float(len(self.asked))], {"timeout": number}),
            "ask deafly": lambda number: self.ask([1.0] * number, is_deaf=True),
            "ask with priority": lambda number: self.ask([float(len(self.asked))], {"priority": number}),
            "ask until": lambda number: self.ask([1.0], deadline=one.clock.now() + number / 1000),
            "cancel": self.cancel,
            "pass": lambda number: one.clock.advance(number / 1000),
            "flush": lambda _: one.clock.run_ready(),
            "fail": lambda number: one.engines[number % len(one.engines)].failures.append(ValueError("planted")),
            "drain": lambda _: one.model.drain(lambda: None),
            "abandon": lambda _: one.model.abandon(),
        }

    def step(self, what: str, number: int) -> None:
        self.steps[what](number)

    def ask(
        self,
        rows: list[float],
        parameters: dict[str, Any] | None = None,
        is_deaf: bool = False,
        deadline: float | None = None,
    ) -> None:
        key = str(len(self.asked))
        self.asked[key] = rows
        hear = partial(self.hear, self.one.answers.settle(key), is_deaf)
        self.pendings.append(self.one.model.infer(make_request(rows, parameters, deadline=deadline), hear))

    def hear(self, settle: Callable[[Any], None], is_deaf: bool, answer: InferResponse | Error) -> None:
        settle(answer)
        if is_deaf:
            fail_to_hear(answer)

    def cancel(self, number: int) -> None:
        if self.pendings and (pending := self.pendings[number % len(self.pendings)]) is not None:
            pending.cancel()


def test_an_engine_failure_is_counted_as_ours(bench: MakeBench) -> None:
    one: Bench = bench()
    one.engines[0].failures.append(RuntimeError("planted"))
    one.ask("a")
    one.clock.run_ready()
    assert isinstance(one.answers.error("a"), EngineFailed)
    assert one.model.statistics.failures["BACKEND"] == 1
    assert one.model.statistics.execution_count == 0


def test_what_was_asked_for_too_late_is_not_even_queued(bench: MakeBench) -> None:
    one: Bench = bench()
    one.clock.advance(5)
    assert one.ask("a", make_request(deadline=5.0)) is None
    assert isinstance(one.answers.error("a"), DeadlineExceeded)
    one.clock.run_ready()
    assert one.engines[0].runs == []
    assert one.model.statistics.failures["REJECTED"] == 1


def test_what_is_refused_by_the_objective_is_counted_and_never_runs(bench: MakeBench) -> None:
    one: Bench = bench('max_batch_size: 1 parameters { key: "slo_ms" value { string_value: "20" } }')
    one.model._scheduler._objective._curve.observe(1, 0.015)  # type: ignore[attr-defined]
    for key in "abc":
        one.ask(key)
    one.clock.run_ready()
    assert one.answers.values("a") == [10]
    refusal = one.answers.error("c")
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_seconds is not None
    assert one.model.statistics.failures["REJECTED"] == 2
    assert len(one.engines[0].runs) == 1


def test_priorities_come_with_the_request(bench: MakeBench) -> None:
    one: Bench = bench("max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 }")
    for key, priority in (("low", 2), ("unsaid", 0), ("high", 1)):
        one.ask(key, make_request([ord(key[0])], {"priority": priority, "mine": 1}))
    one.clock.run_ready()
    assert [chr(int(feeds["x"][0, 0])) for feeds in one.engines[0].runs] == ["h", "l", "u"]


def test_timeouts_that_delay_refuse_nobody(bench: MakeBench) -> None:
    policy = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 100000 }"
    one: Bench = bench(f"max_batch_size: 4 dynamic_batching {{ max_queue_delay_microseconds: 500000 {policy} }}")
    one.ask("slow", make_request([1]))
    one.clock.advance(0.2)
    one.ask("quick", make_request([2, 2, 2]))
    one.clock.advance(1)
    assert one.engines[0].runs[0]["x"][:, 0].tolist() == [2, 2, 2, 1]
    assert one.answers.values("slow") == [10]
