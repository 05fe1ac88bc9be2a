"""Sequences get their places and their turns, and never see each other's state."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES
from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed, InvalidInput, NotReady, Overloaded
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from enginehouse.tensor import Tensors, TensorSpec
from service.clock import FakeClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.request import InferRequest, SequencePosition
from service.scheduling.queue_policy import DEFAULT_MAX_QUEUE_SIZE
from service.scheduling.rate_limiter import RateLimiter
from service.served_model import ServedModel
from tests.service.conftest import Answers, MakeBench, X, Y, make_request, stay_inline
from tests.service.sequence_bench import INPUTS, NEW_SUM, OLDEST, accumulate, column, config, make_accumulator, step


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
