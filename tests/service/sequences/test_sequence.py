"""Sequences get their places and their turns, and never see each other's state."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES
from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed, InvalidInput, NotReady, Overloaded
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from enginehouse.tensor import Tensors, TensorSpec
from service.clock import FakeClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.request import Admitted, InferRequest, InferResponse, SequencePosition
from service.scheduling.queue_policy import DEFAULT_MAX_QUEUE_SIZE
from service.scheduling.rate_limiter import RateLimiter
from service.served_model import ServedModel
from tests.service.conftest import Answers, Bench, MakeBench, X, Y, make_bench, make_request, stay_inline

START = TensorSpec("start", DTYPES["FP32"], (-1, 1))
READY = TensorSpec("ready", DTYPES["INT32"], (-1, 1))
END = TensorSpec("end", DTYPES["BOOL"], (-1, 1))
CORRID = TensorSpec("id", DTYPES["UINT64"], (-1, 1))
SUM = TensorSpec("sum", DTYPES["FP32"], (-1, 2))
NEW_SUM = TensorSpec("new_sum", DTYPES["FP32"], (-1, 2))
INPUTS = (X, START, READY, END, CORRID, SUM)
CONTROLS = """
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  control_input { name: "ready" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
  control_input { name: "end" control { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } }
  control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
  state { input_name: "sum" output_name: "new_sum" data_type: TYPE_FP32 dims: [ 2 ] }
"""
OLDEST = "oldest { max_candidate_sequences: 4 }"


def config(strategy: str = "direct { }", rows: int = 2, rest: str = "", instances: int = 1) -> str:
    return (
        f"max_batch_size: {rows} instance_group {{ count: {instances} }} "
        f'output {{ name: "y" data_type: TYPE_FP32 dims: 2 }} sequence_batching {{ {strategy} {CONTROLS} {rest} }}'
    )


def accumulate(feeds: Tensors) -> Tensors:
    total = feeds["x"] + feeds["sum"]
    return {"y": total, "new_sum": total}


def make_accumulator(text: str | None = None, **fields: Any) -> Bench:
    return make_bench(text or config(), accumulate, INPUTS, (Y, NEW_SUM), **fields)


@pytest.fixture
def accumulator(bench: MakeBench) -> Any:
    def make(text: str | None = None) -> Bench:
        return bench(text or config(), accumulate, INPUTS, (Y, NEW_SUM))

    return make


def step(sequence: int | str, value: float, flags: str = "", **fields: Any) -> InferRequest:
    """A request of a sequence; `s` in the flags starts it and `e` ends it."""
    position = SequencePosition(sequence, "s" in flags, "e" in flags)
    return make_request([value], sequence=position, **fields)


def column(feeds: Tensors, name: str) -> list[float]:
    values: list[float] = feeds[name][:, 0].tolist()
    return values


def test_a_sequence_remembers_its_past_and_another_has_its_own() -> None:
    one = make_accumulator()
    for number, (sequence, value, flags) in enumerate(
        [(1, 1, "s"), (2, 100, "s"), (1, 2, ""), (2, 200, "e"), (1, 3, "e"), (2, 5, "s")]
    ):
        one.ask(str(number), step(sequence, value, flags))
        one.clock.run_ready()
    assert [one.answers.values(str(number)) for number in range(6)] == [[1], [100], [3], [300], [6], [5]]
    one.model.close()


def test_requests_of_one_sequence_never_run_together(accumulator: Any) -> None:
    one = accumulator(config(rows=4))
    for number in range(3):
        one.ask(str(number), step(7, 1, "s" if number == 0 else ""))
    one.clock.run_ready()
    assert [column(feeds, "x") for feeds in one.engines[0].runs] == [[1], [1], [1]]
    assert [one.answers.values(str(number)) for number in range(3)] == [[1], [2], [3]]


def test_the_control_inputs_say_where_each_row_stands(accumulator: Any) -> None:
    one = accumulator()
    one.ask("a", step(11, 1, "s"))
    one.ask("b", step(12, 1, "se"))
    one.clock.run_ready()
    (feeds,) = one.engines[0].runs
    assert feeds["start"].dtype == np.float32
    assert feeds["start"].tolist() == [[1], [1]]
    assert feeds["ready"].dtype == np.int32
    assert feeds["ready"].tolist() == [[1], [1]]
    assert feeds["end"].tolist() == [[False], [True]]
    assert feeds["id"].dtype == np.uint64
    assert feeds["id"].tolist() == [[11], [12]]


def test_with_the_direct_strategy_a_sequence_keeps_its_row_and_the_others_are_not_ready(accumulator: Any) -> None:
    one = accumulator(config(rows=4))
    for number in range(3):
        one.ask(f"start {number}", step(number + 1, 10 * number, "s"))
    one.clock.run_ready()
    one.ask("third", step(3, 1))
    one.clock.run_ready()
    feeds = one.engines[0].runs[-1]
    assert column(feeds, "ready") == [0, 0, 1]
    assert column(feeds, "x") == [0, 0, 1]
    assert column(feeds, "id") == [0, 0, 3]
    assert one.answers.values("third") == [21]
    assert one.model.statistics.batches.keys() == {3, 1}


def test_with_the_oldest_strategy_rows_are_packed(accumulator: Any) -> None:
    one = accumulator(config(OLDEST, rows=4))
    for number in range(3):
        one.ask(f"start {number}", step(number + 1, 10 * number, "s"))
    one.clock.run_ready()
    one.ask("third", step(3, 1))
    one.clock.run_ready()
    feeds = one.engines[0].runs[-1]
    assert column(feeds, "id") == [3]
    assert one.answers.values("third") == [21]


def test_the_oldest_requests_run_first(accumulator: Any) -> None:
    one = accumulator(config("oldest { max_candidate_sequences: 3 }", rows=1))
    for number in (1, 2, 3):
        one.ask(f"start {number}", step(number, 0, "s"))
    one.clock.run_ready()
    for number in (3, 1, 2):
        one.clock.advance(0.001)
        one.ask(f"next {number}", step(number, 0))
    one.clock.run_ready()
    assert [column(feeds, "id") for feeds in one.engines[0].runs[-3:]] == [[3], [1], [2]]


def test_a_sequence_without_a_place_waits_until_one_ends(accumulator: Any) -> None:
    one = accumulator(config(rows=1))
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(2, 5, "s"))
    one.ask("b2", step(2, 5, "e"))
    one.clock.run_ready()
    assert one.answers.of["b"] == []
    assert one.model.queue_depth == 2
    one.ask("a2", step(1, 1, "e"))
    one.clock.run_ready()
    assert [one.answers.values(key) for key in ("a", "a2", "b", "b2")] == [[1], [2], [5], [10]]


def test_sequences_spread_over_the_instances_and_stay_there(accumulator: Any) -> None:
    one = accumulator(config(rows=2, instances=2))
    for number in (1, 2):
        one.ask(f"s{number}", step(number, number, "s"))
    one.clock.run_ready()
    for number in (1, 2):
        one.ask(f"n{number}", step(number, number))
    one.clock.run_ready()
    assert [[column(feeds, "id") for feeds in engine.runs] for engine in one.engines] == [[[1], [1]], [[2], [2]]]
    assert [one.answers.values(f"n{number}") for number in (1, 2)] == [[2], [4]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (make_request([1]), "must specify a non-zero or non-empty correlation ID"),
        (step(0, 1, "s"), "must specify a non-zero or non-empty correlation ID"),
        (step(5, 1), "for sequence 5 to model 'm' must specify the START flag on the first request of the sequence"),
        (make_request([1, 2], sequence=SequencePosition(5, True)), "must specify batch-size 1"),
        (step("text", 1, "s"), "must be whole numbers from 0 to 18446744073709551615; got 'text'"),
        (step(-1, 1, "s"), "got -1"),
    ],
    ids=["no id", "zero", "not started", "two rows", "text", "negative"],
)
def test_what_is_no_part_of_a_sequence_is_refused(accumulator: Any, request_: InferRequest, message: str) -> None:
    one = accumulator()
    assert one.ask("a", request_) is None
    assert isinstance(one.answers.error("a"), InvalidInput)
    assert message in str(one.answers.error("a"))
    assert one.model.queue_depth == 0


def test_a_sequence_that_ended_must_start_again(accumulator: Any) -> None:
    one = accumulator()
    one.ask("a", step(1, 1, "se"))
    one.ask("b", step(1, 1))
    assert "must specify the START flag" in str(one.answers.error("b"))
    one.clock.run_ready()
    assert one.answers.values("a") == [1]


def test_a_start_in_the_middle_begins_anew(accumulator: Any) -> None:
    one = accumulator()
    for key, value, flags in [("a", 1, "s"), ("b", 2, ""), ("c", 10, "s"), ("d", 1, "")]:
        one.ask(key, step(1, value, flags))
    one.clock.run_ready()
    assert [one.answers.values(key) for key in "abcd"] == [[1], [3], [10], [11]]


def test_a_sequence_that_is_idle_for_too_long_is_ended_and_its_place_given_away(accumulator: Any) -> None:
    one = accumulator(config(rows=1, rest="max_sequence_idle_microseconds: 500000"))
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(2, 2, "s"))
    one.clock.advance(0.4)
    one.ask("a2", step(1, 1))
    one.clock.advance(0.4)
    assert one.answers.values("a2") == [2]
    assert one.answers.of["b"] == []
    one.clock.advance(0.2)
    assert one.answers.values("b") == [2]
    one.ask("a3", step(1, 1))
    assert "must specify the START flag" in str(one.answers.error("a3"))


def test_a_sequence_with_requests_in_line_is_not_idle(accumulator: Any) -> None:
    one = accumulator(config(rows=1, rest="max_sequence_idle_microseconds: 500000"))
    one.ask("a", step(1, 1, "s"))
    one.clock.run_ready()
    one.ask("b", step(2, 2, "s"))
    for number in range(5):
        one.clock.advance(0.4)
        one.ask(str(number), step(1, 1, "e" if number == 4 else ""))
    one.clock.run_ready()
    one.ask("b2", step(2, 2))
    one.clock.run_ready()
    assert [one.answers.values(key) for key in ("b", "b2")] == [[2], [4]]


def test_the_direct_strategy_waits_for_the_share_it_was_told(accumulator: Any) -> None:
    one = accumulator(config("direct { minimum_slot_utilization: 0.5 max_queue_delay_microseconds: 100000 }", rows=4))
    one.ask("a", step(1, 1, "s"))
    one.clock.advance(0.05)
    assert one.engines[0].runs == []
    one.ask("b", step(2, 1, "s"))
    one.clock.run_ready()
    assert [column(feeds, "id") for feeds in one.engines[0].runs] == [[1, 2]]
    one.ask("c", step(1, 1))
    one.clock.advance(0.09)
    assert len(one.engines[0].runs) == 1
    one.clock.advance(0.02)
    assert one.answers.values("c") == [2]


def test_the_oldest_strategy_runs_preferred_sizes_and_else_waits(accumulator: Any) -> None:
    strategy = "oldest { max_candidate_sequences: 8 preferred_batch_size: 2 max_queue_delay_microseconds: 100000 }"
    one = accumulator(config(strategy, rows=4))
    for number in (1, 2, 3):
        one.ask(f"s{number}", step(number, 1, "s"))
    one.clock.run_ready()
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [2]
    one.clock.advance(0.1)
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [2, 1]


def test_a_request_that_leaves_takes_along_what_was_built_on_it(accumulator: Any) -> None:
    one = accumulator(config(rows=1))
    one.ask("other", step(9, 1, "s"))
    admitted = [one.ask(str(number), step(1, 1, "s" if number == 0 else "")) for number in range(3)]
    assert admitted[1] is not None
    admitted[1].cancel()
    assert isinstance(one.answers.error("1"), Cancelled)
    assert "sequence 1 ended early" in str(one.answers.error("2"))
    one.ask("3", step(1, 1))
    assert "must specify the START flag" in str(one.answers.error("3"))
    one.ask("end", step(9, 1, "e"))
    one.clock.run_ready()
    assert one.answers.values("0") == [1]
    one.ask("next", step(4, 4, "s"))
    one.clock.run_ready()
    assert one.answers.values("next") == [4]


def test_a_sequence_that_waits_for_a_place_past_its_deadline_leaves_the_line(accumulator: Any) -> None:
    one = accumulator(config(rows=1, rest="max_sequence_idle_microseconds: 9000000"))
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(2, 1, "s", parameters={"timeout": 100_000}))
    one.clock.advance(0.2)
    assert isinstance(one.answers.error("b"), DeadlineExceeded)
    one.ask("c", step(3, 1, "s"))
    one.ask("a2", step(1, 1, "e"))
    one.clock.run_ready()
    assert one.answers.values("c") == [1]


def test_the_line_is_bounded(accumulator: Any) -> None:
    one = accumulator()
    one.ask("start", step(1, 1, "s"))
    for number in range(DEFAULT_MAX_QUEUE_SIZE - 1):
        one.ask(str(number), step(1, 1))
    assert one.ask("more", step(1, 1)) is None
    assert isinstance(one.answers.error("more"), Overloaded)
    one.clock.run_ready()
    assert one.answers.values(str(DEFAULT_MAX_QUEUE_SIZE - 2)) == [DEFAULT_MAX_QUEUE_SIZE]


def test_a_step_that_failed_leaves_the_state_as_it_was(accumulator: Any) -> None:
    one = accumulator()
    one.ask("a", step(1, 1, "s"))
    one.clock.run_ready()
    one.engines[0].failures = [RuntimeError("boom")]
    one.ask("b", step(1, 100))
    one.clock.run_ready()
    assert isinstance(one.answers.error("b"), EngineFailed)
    one.ask("c", step(1, 2))
    one.clock.run_ready()
    assert one.answers.values("c") == [3]


def test_mates_of_a_step_that_failed_run_alone_and_once(accumulator: Any) -> None:
    one = accumulator()
    one.engines[0].failures = [RuntimeError("boom")]
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(2, 5, "s"))
    one.clock.run_ready()
    assert [one.answers.values(key) for key in "ab"] == [[1], [5]]
    one.ask("b2", step(2, 5))
    one.clock.run_ready()
    assert one.answers.values("b2") == [10]


def test_draining_finishes_what_is_here_and_does_not_wait_for_pauses(accumulator: Any) -> None:
    one = accumulator()
    one.ask("a", step(1, 1, "s"))
    drained: list[bool] = []
    one.model.drain(lambda: drained.append(True))
    one.clock.run_ready()
    assert one.answers.values("a") == [1]
    assert drained == [True]


def test_everybody_in_line_hears_of_the_end(accumulator: Any) -> None:
    one = accumulator(config(rows=1))
    one.ask("a", step(1, 1, "s"))
    one.clock.run_ready()
    one.ask("b", step(2, 1, "s"))
    one.ask("b2", step(2, 1))
    one.model.abandon()
    assert all(isinstance(one.answers.error(key), NotReady) for key in ("b", "b2"))
    assert one.model.queue_depth == 0


def test_states_that_grow_run_with_those_of_their_own_size(bench: MakeBench) -> None:
    """A state that keeps every value: rows of other lengths cannot share its batch."""
    past = TensorSpec("past", DTYPES["FP32"], (-1, -1))
    new_past = TensorSpec("new_past", DTYPES["FP32"], (-1, -1))

    def remember(feeds: Tensors) -> Tensors:
        grown = np.concatenate([feeds["past"], feeds["x"][:, :1]], axis=1)
        return {"y": np.repeat(grown.sum(axis=1, keepdims=True), 2, axis=1), "new_past": grown}

    text = (
        'max_batch_size: 4 output { name: "y" data_type: TYPE_FP32 dims: 2 } sequence_batching { direct { } '
        'state { input_name: "past" output_name: "new_past" data_type: TYPE_FP32 dims: [ -1 ] } }'
    )
    one = bench(text, remember, (X, past), (Y, new_past))
    one.ask("a", step(1, 1, "s"))
    one.clock.run_ready()
    one.ask("a2", step(1, 2))
    one.ask("b", step(2, 10, "s"))
    one.clock.run_ready()
    assert [feeds["past"].shape for feeds in one.engines[0].runs] == [(1, 1), (1, 2), (2, 1)]
    one.ask("a3", step(1, 3))
    one.ask("b2", step(2, 20))
    one.clock.run_ready()
    assert [one.answers.values(key) for key in ("a2", "b", "a3", "b2")] == [[3], [10], [6], [30]]


def test_a_state_that_is_not_what_was_configured_is_the_engines_fault(bench: MakeBench) -> None:
    one = bench(
        config(),
        lambda feeds: {"y": feeds["x"], "new_sum": feeds["x"].astype(np.float64)},
        INPUTS,
        (Y, NEW_SUM),
    )
    one.ask("a", step(1, 1, "s"))
    one.clock.run_ready()
    assert "state output 'new_sum' is float64 [1, 2]; FP32 [1, 2] expected" in str(one.answers.error("a"))


def test_a_model_may_have_more_places_than_memory(accumulator: Any) -> None:
    one = accumulator(config("oldest { max_candidate_sequences: 2000000000 }", rows=4))
    for number in range(1, 9):
        one.ask(str(number), step(number, number, "s"))
    one.clock.run_ready()
    assert [one.answers.values(str(number)) for number in range(1, 9)] == [[number] for number in range(1, 9)]
    assert [len(feeds["x"]) for feeds in one.engines[0].runs] == [4, 4]


def test_what_is_too_late_is_never_computed(accumulator: Any) -> None:
    """Also while the timers are: the engine was given back after the deadline, and before anybody could say so."""
    one = accumulator(config(rows=1))
    one.ask("a", step(1, 1, "s"))
    one.ask("b", step(1, 1, parameters={"timeout": 100_000}))
    one.ask("c", step(1, 1))
    one.clock.time = 0.2
    one.clock.run_ready()
    assert one.answers.values("a") == [1]
    assert isinstance(one.answers.error("b"), DeadlineExceeded)
    assert isinstance(one.answers.error("c"), DeadlineExceeded)
    assert len(one.engines[0].runs) == 1
    assert isinstance(late(one), DeadlineExceeded)


def late(one: Bench) -> Any:
    """A request whose deadline has passed when it comes."""
    one.ask("late", step(5, 1, "s", deadline=one.clock.time - 1))
    return one.answers.error("late")


OBJECTIVE = ' parameters { key: "slo_ms" value { string_value: "100" } }'


@pytest.mark.parametrize("strategy", ["direct { }", OLDEST])
def test_a_sequence_lives_on_when_a_request_that_comes_too_late_is_refused(accumulator: Any, strategy: str) -> None:
    one = accumulator(config(strategy) + OBJECTIVE)
    one.clock.time = 10.0
    one.ask("start", step(1, 1, "s", received_at=10.0))
    one.clock.run_ready()
    one.ask("late", step(1, 10, received_at=9.8))
    one.ask("in time", step(1, 100, received_at=9.95))
    one.clock.run_ready()
    assert isinstance(one.answers.error("late"), DeadlineExceeded)
    assert [one.answers.values(key) for key in ("start", "in time")] == [[1], [101]]


@pytest.mark.parametrize("strategy", ["direct { }", OLDEST])
def test_an_objective_is_the_time_that_a_request_of_a_sequence_may_wait(accumulator: Any, strategy: str) -> None:
    one = accumulator(config(strategy, rows=1) + OBJECTIVE)
    one.ask("start", step(1, 1, "s"))
    one.clock.run_ready()
    one.ask("waits", step(1, 1))
    one.clock.time += 0.15
    one.clock.run_ready()
    assert isinstance(one.answers.error("waits"), DeadlineExceeded)
    assert len(one.engines[0].runs) == 1
    one.ask("next", step(1, 1))
    assert "must specify the START flag" in str(one.answers.error("next"))


def test_sequences_share_resources_with_other_models() -> None:
    """One resource, two instances that each need it: they never run at the same time, and all are answered."""
    limited = 'rate_limiter { resources { name: "R" count: 1 } }'
    text = config().replace("instance_group { count: 1 }", f"instance_group {{ count: 2 {limited} }}")
    parsed = config_from_text(text, "m")
    complete_platform(parsed, ["model.onnx"])
    complete_config(parsed, INPUTS, (Y, NEW_SUM))
    clock = FakeClock()
    limiter = RateLimiter(clock)
    engines = [FakeEngine(INPUTS, (Y, NEW_SUM), accumulate) for _ in range(2)]
    model = serve_version(LoadedVersion(parsed, 1, Path(), engines, 0.5), Surroundings(clock, rate_limiter=limiter))
    assert isinstance(model, ServedModel)
    started: list[Any] = []
    for instance in model._instances:
        instance.start = started.append  # type: ignore[method-assign, assignment]
    answers = Answers()
    for number in (1, 2):
        model.infer(step(number, number, "s"), answers.settle(str(number)))
    clock.run_ready()
    assert len(started) == 1
    for instance in model._instances:
        del instance.start
        stay_inline(instance)
    model._instances[0].start(started[0])
    clock.run_ready()
    assert [answers.values(str(number)) for number in (1, 2)] == [[1], [2]]
    assert [len(engine.runs) for engine in engines] == [1, 1]
    model.close()


_ASK = st.tuples(
    st.just("ask"),
    st.integers(1, 4),
    st.sampled_from(["", "", "", "", "s", "e"]),
    st.sampled_from([False] * 9 + [True]),
)
_RUN = st.tuples(st.just("run"), st.integers(1, 4))
_CANCEL = st.tuples(st.just("cancel"), st.integers(0, 40))
_WAIT = st.tuples(st.just("wait"), st.sampled_from([0.02, 0.2, 1.5]))
_EVENTS = st.lists(st.one_of(*[_ASK] * 8, _RUN, _RUN, _CANCEL, _WAIT), min_size=20, max_size=50)
_STARTS = [("ask", number, "s", False) for number in (1, 2, 3, 4)]


def _run_callbacks(one: Bench, count: int) -> None:
    """Let a few things happen and no more: what comes next meets a server that is in the middle of it all."""
    ready = one.clock._ready
    for _ in range(min(count, len(ready))):
        callback, arguments = ready.popleft()
        callback(*arguments)


def _fail_at(failing: set[int]) -> Callable[[Tensors], Tensors]:
    runs = 0

    def compute(feeds: Tensors) -> Tensors:
        nonlocal runs
        runs += 1
        if runs in failing:
            raise RuntimeError("boom")
        return accumulate(feeds)

    return compute


@given(
    events=_EVENTS,
    strategy=st.sampled_from(["direct { }", OLDEST, "oldest { }"]),
    instances=st.integers(1, 2),
    failing=st.sets(st.integers(1, 30), max_size=8),
)
def test_sequences_never_interleave_state(
    events: Sequence[tuple[Any, ...]], strategy: str, instances: int, failing: set[int]
) -> None:
    """However starts, ends, cancels, deadlines, pauses and failures mix: everybody is answered exactly once, and a sum
    holds its own sequence's numbers, from its start on, all of them but those that were answered with a failure.
    """
    text = config(strategy, rows=2, instances=instances, rest="max_sequence_idle_microseconds: 1000000")
    one = make_accumulator(text)
    for engine in one.engines:
        engine._function = _fail_at(failing)
    admitted: list[Admitted | None] = []
    lives: list[list[int]] = []
    current: dict[int, int] = {}
    for kind, *arguments in [*_STARTS, *events]:
        if kind == "ask":
            sequence, flags, is_short = arguments
            number = len(admitted)
            parameters = {"timeout": 100_000} if is_short else {}
            admitted.append(one.ask(str(number), step(sequence, number + 1, flags, parameters=parameters)))
            if admitted[-1] is not None:
                if "s" in flags:
                    current[sequence] = len(lives)
                    lives.append([])
                lives[current[sequence]].append(number)
        elif kind == "run":
            _run_callbacks(one, arguments[0])
        elif kind == "wait":
            one.clock.advance(arguments[0])
        elif arguments[0] < len(admitted) and admitted[arguments[0]] is not None:
            admitted[arguments[0]].cancel()
    one.clock.advance(10)
    assert [len(one.answers.of[str(number)]) for number in range(len(admitted))] == [1] * len(admitted)
    for life in lives:
        _check_life(one, life)
    assert one.model.queue_depth == 0
    one.model.close()


def _check_life(one: Bench, life: list[int]) -> None:
    total, is_broken = 0, False
    for number in life:
        (answer,) = one.answers.of[str(number)]
        if isinstance(answer, InferResponse):
            assert not is_broken
            total += number + 1
            assert one.answers.values(str(number)) == [total]
        else:
            assert isinstance(answer, Cancelled | DeadlineExceeded) or "boom" in str(answer)
            is_broken = is_broken or not isinstance(answer, EngineFailed)
